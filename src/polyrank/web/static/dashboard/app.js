/** The page of one app. */

import { h, icon } from "../dom.js";
import { makeTools } from "../tools.js";
import { rollOut } from "./calls.js";
import { Deployments } from "./deployments.js";
import { STRATEGIES, ask } from "./dialog.js";
import { Facts } from "./facts.js";
import { say } from "./keyed.js";
import { Live } from "./live.js";
import { Replicas } from "./replicas.js";
import { Requests } from "./requests.js";
import { Revisions } from "./revisions.js";
import { ScalingForm } from "./scaling.js";
import { makeState, showState, stateOf } from "./state.js";
import { showTrouble } from "./trouble.js";

const at = (id) => document.getElementById(id);

const name = decodeURIComponent(location.pathname)
  .replace(/^\/dashboard\//, "")
  .replace(/\/$/, "");
if (!name) location.replace("/dashboard");
const cut = name.lastIndexOf("/");
at("owner").textContent = name.slice(0, cut + 1);
at("name").textContent = name.slice(cut + 1);
document.title = `${name} · polyrank`;

/** How the app is doing, in a line. */
class Summary {
  constructor(place) {
    this.state = makeState();
    this.revision = h("span", { class: "revision" });
    this.facts = new Facts();
    this.why = h("p", { class: "why" });
    this.restart = h(
      "button",
      { type: "button", class: "plain", onclick: () => askToRestart() },
      "Restart",
    );
    place.append(
      this.state,
      this.revision,
      this.facts.element,
      h(
        "div",
        { class: "actions" },
        h("a", { class: "plain", href: `/playground/${name}` }, icon("play"), "Playground"),
        this.restart,
      ),
      this.why,
    );
  }

  show(app, deployment) {
    showState(this.state, stateOf(app, deployment));
    say(this.revision, app.revision ? `revision ${app.revision.number}` : "no revision serves");
    this.facts.show(app);
    say(this.why, app.why);
    this.restart.disabled = !app.revision;
  }
}

function askToRestart() {
  ask({
    title: "Replace all replicas?",
    text: "New ones of the same revision take their place.",
    action: "Restart",
    choices: STRATEGIES,
    work: (strategy) => rollOut(name, strategy),
  });
}

const live = new Live(name);
const tools = makeTools(at("tools"), () => live.connection.restart());
const summary = new Summary(at("summary"));
const parts = [
  new Deployments(),
  new Replicas(name),
  new Requests(name),
  new ScalingForm(name),
  new Revisions(name),
];
const [deployments, replicas, requests, scaling, revisions] = parts;
at("left").append(deployments.element, replicas.element, requests.element);
at("right").append(scaling.element, revisions.element);

live.addEventListener("change", () => {
  const app = live.apps.get(name);
  showTrouble(app ? null : new Error(`${name} is not deployed here.`), tools);
  at("summary").hidden = at("parts").hidden = !app;
  if (!app) return;
  const underWay = live.deploymentsOf(name);
  summary.show(app, underWay[0]);
  for (const part of parts) part.show(app, underWay);
});
live.addEventListener("problem", () => showTrouble(live.problem, tools, live.isKnown));
live.connection.start();
