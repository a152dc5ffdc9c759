/** The page with all that is deployed. */

import { h, icon } from "../dom.js";
import { makeTools } from "../tools.js";
import { Facts } from "./facts.js";
import { Keyed, say } from "./keyed.js";
import { Live } from "./live.js";
import { ago, setAgo } from "./moment.js";
import { makeState, showState, stateOf } from "./state.js";
import { showTrouble } from "./trouble.js";

const place = document.getElementById("apps");
const live = new Live();
const tools = makeTools(document.getElementById("tools"), () => live.connection.restart());

/** One app of the list. */
class Entry {
  constructor({ name }) {
    const cut = name.lastIndexOf("/");
    this.state = makeState();
    this.revision = h("span", { class: "revision" });
    this.since = ago();
    this.way = h("span", { class: "badge", hidden: true });
    this.facts = new Facts();
    this.why = h("p", { class: "why" });
    const words = `Playground of ${name}`;
    this.element = h(
      "li",
      { class: "app" },
      h(
        "a",
        { class: "title", href: `/dashboard/${name}` },
        h("span", { class: "owner" }, name.slice(0, cut + 1)),
        name.slice(cut + 1),
      ),
      this.state,
      this.way,
      h("span", { class: "when" }, this.revision, this.since),
      h(
        "a",
        { class: "quiet", href: `/playground/${name}`, title: words, "aria-label": words },
        icon("play"),
      ),
      this.facts.element,
      this.why,
    );
  }

  show(app) {
    say(this.revision, app.revision ? `revision ${app.revision.number}` : "never deployed");
    setAgo(this.since, app.revision?.created_at ?? null);
    const [deployment] = live.deploymentsOf(app.name);
    showState(this.state, stateOf(app, deployment));
    this.way.hidden = deployment?.state !== "running";
    if (!this.way.hidden) say(this.way, `revision ${deployment.number}: ${deployment.phase}`);
    this.facts.show(app);
    say(this.why, app.why);
  }
}

const list = new Keyed(
  place,
  ({ name }) => name,
  (app) => new Entry(app),
);
const nothing = h(
  "p",
  { class: "nothing" },
  "No app is deployed here yet. ",
  h("code", {}, "polyrank deploy app.py"),
  " deploys one.",
);

live.addEventListener("change", () => {
  showTrouble(null, tools);
  list.show(live.list());
  if (live.apps.size) nothing.remove();
  else place.after(nothing);
});
live.addEventListener("problem", () => showTrouble(live.problem, tools, live.isKnown));
live.connection.start();
