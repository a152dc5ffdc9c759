/** What was deployed of an app, and the way back to it. */

import { h } from "../dom.js";
import { listRevisions, setRevision } from "./calls.js";
import { STRATEGIES, ask } from "./dialog.js";
import { Keyed, say } from "./keyed.js";
import { ago, setAgo } from "./moment.js";
import { button, makeSection } from "./section.js";
import { makeState, showState } from "./state.js";

const SHOWN = 10;

export class Revisions {
  constructor(app) {
    this.app = app;
    this.seen = null;
    this.shown = SHOWN;
    this.listed = [];
    const list = h("ul", { class: "revisions" });
    this.list = new Keyed(
      list,
      ({ id }) => id,
      (each) => new Entry(each, (revision) => this.askToSet(revision)),
    );
    this.problem = h("p", { class: "problem", role: "alert" });
    this.more = button("Show all", () => this.showAll());
    this.element = makeSection("Revisions", h("div", {}, list, this.problem, this.more));
  }

  show(app, deployments) {
    const states = deployments.map(({ id, state }) => [id, state]);
    const seen = JSON.stringify([app.revision?.id, states]);
    this.current = app.revision?.number ?? 0;
    if (seen !== this.seen) this.read();
    this.seen = seen;
  }

  async read() {
    try {
      this.listed = await listRevisions(this.app);
      say(this.problem, "");
    } catch (error) {
      say(this.problem, error.message);
    }
    this.showRows();
  }

  showAll() {
    this.shown = Infinity;
    this.showRows();
  }

  showRows() {
    this.list.show(this.listed.slice(0, this.shown));
    this.more.hidden = this.listed.length <= this.shown;
  }

  askToSet({ id, number, message }) {
    const isBack = number < this.current;
    const said = message ? ` (${message})` : "";
    ask({
      title: `${isBack ? "Roll back" : "Roll out"} to revision ${number}?`,
      text: `Revision ${number}${said} takes the place of revision ${this.current}.`,
      action: isBack ? "Roll back" : "Roll out",
      choices: STRATEGIES,
      work: (strategy) => setRevision(this.app, id, strategy),
    });
  }
}

class Entry {
  constructor({ id, number, message, ref, created_by: by }, onSet) {
    this.state = makeState();
    this.error = h("p", { class: "reason" });
    this.set = button("Roll back", () => onSet(this.revision), `Roll back to revision ${number}`);
    const facts = [ref, by, id].filter(Boolean).join(" · ");
    this.element = h(
      "li",
      {},
      h(
        "div",
        { class: "line" },
        h("strong", {}, `Revision ${number}`),
        this.state,
        h("span", { class: "when" }, setAgo(ago(), null)),
        this.set,
      ),
      message ? h("p", {}, message) : null,
      h("p", { class: "faint facts-line" }, facts),
      this.error,
    );
    this.since = this.element.querySelector("time");
  }

  show(revision) {
    this.revision = revision;
    showState(this.state, revision.is_current ? "serves" : revision.state);
    setAgo(this.since, revision.created_at);
    say(this.error, revision.error ?? "");
    this.set.hidden = revision.is_current || revision.state === "deploying";
    this.element.classList.toggle("current", revision.is_current);
  }
}
