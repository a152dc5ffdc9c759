/** The deployments of an app that are under way, phase by phase, and how the last one ended. */

import { h } from "../dom.js";
import { watchDeployment } from "./calls.js";
import { Connection } from "./connection.js";
import { Keyed, say } from "./keyed.js";
import { ago, setAgo } from "./moment.js";
import { Scroll } from "./scroll.js";
import { makeSection } from "./section.js";
import { makeState, showState } from "./state.js";

const PHASES = ["waiting", "building", "starting", "switching", "draining"];
const MOST_LINES = 2000;

export class Deployments {
  constructor() {
    const list = h("ul", { class: "deployments" });
    this.list = new Keyed(
      list,
      ({ id }) => id,
      (each) => new Deployment(each),
    );
    this.element = makeSection("Deployments", list);
    this.element.hidden = true;
  }

  show(_, deployments) {
    const isShown = (each, at) => each.state === "running" || at === 0;
    const shown = deployments.filter(isShown);
    this.element.hidden = !shown.length;
    this.list.show(shown);
  }
}

class Deployment {
  constructor({ id, state }) {
    this.id = id;
    this.told = 0;
    this.title = h("strong");
    this.state = makeState();
    this.since = ago();
    this.phases = PHASES.map((phase) => h("li", {}, phase));
    this.error = h("p", { class: "problem", role: "alert" });
    this.lines = h("div", { class: "log", role: "log", tabIndex: 0, "aria-label": "Lines" });
    this.scroll = new Scroll(this.lines);
    this.details = h(
      "details",
      { open: state === "running", ontoggle: () => this.follow() },
      h("summary", {}, "What it says"),
      this.lines,
    );
    this.connection = new Connection((signal, heard) => this.read(signal, heard));
    this.element = h(
      "li",
      {},
      h("div", { class: "line" }, this.title, this.state, h("span", { class: "when" }, this.since)),
      h("ol", { class: "phases", "aria-label": "Phases" }, ...this.phases),
      this.error,
      this.details,
    );
  }

  show({ number, state, phase, error, begun_at: begunAt, ended_at: endedAt }) {
    say(this.title, `Revision ${number}`);
    showState(this.state, state);
    setAgo(this.since, endedAt ?? begunAt);
    const at = PHASES.indexOf(phase);
    for (const [index, element] of this.phases.entries()) {
      const isNow = index === at && state === "running";
      const isPast = index < at || state === "done";
      element.className = isNow ? "now" : isPast ? "past" : index === at ? state : "";
      if (isNow) element.setAttribute("aria-current", "step");
      else element.removeAttribute("aria-current");
    }
    say(this.error, error ?? "");
    if (state === "failed" && this.last !== "failed") this.details.open = true;
    this.last = state;
  }

  follow() {
    if (!this.details.open) this.connection.stop();
    else if (!this.isRead) this.connection.start();
  }

  async read(signal, heard) {
    for await (const { id, data } of watchDeployment(this.id, this.told, signal)) {
      heard();
      this.told = id;
      this.note(data);
    }
    return this.isRead;
  }

  note(event) {
    const { type, phase, detail, text, lines = [] } = event;
    if (type === "phase") this.add(`${phase}${detail ? `: ${detail}` : ""}`, "event");
    else if (type === "line") this.add(text);
    else {
      this.isRead = true;
      if (type === "done") this.add("It serves.", "event");
      else this.add(detail, "error");
      this.scroll.flush();
      const last = [...this.lines.children].slice(-50).map((each) => each.textContent);
      for (const each of lines) if (!last.includes(each)) this.add(each, "error");
    }
  }

  add(text, kind = "") {
    this.scroll.append(h("div", { class: `entry ${kind}` }, text), MOST_LINES);
  }
}
