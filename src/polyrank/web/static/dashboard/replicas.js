/** The replicas of an app: those that run, those that ended lately, and the log of each. */

import { h } from "../dom.js";
import { endReplica, listEnded } from "./calls.js";
import { ask } from "./dialog.js";
import { Keyed, say } from "./keyed.js";
import { Log } from "./log.js";
import { ago, setAgo } from "./moment.js";
import { button, cell, makeSection, makeTable } from "./section.js";
import { makeState, showState } from "./state.js";

// How long an ended replica is shown: its log says why it ended.
const SHOWN_S = 3600;
const MOST_ENDED = 10;

export class Replicas {
  constructor(app) {
    this.app = app;
    this.ended = [];
    this.live = [];
    const columns = ["Replica", "State", "Since", "Revision", "GPUs", "Requests"];
    const { table, rows } = makeTable("Replicas", ...columns);
    this.rows = new Keyed(
      rows,
      ({ id }) => id,
      (each) => new Row(each, () => this.openLog(each.id)),
    );
    this.nothing = h("p", { class: "nothing" }, "No replica runs.");
    this.log = new Log();
    this.element = makeSection("Replicas", h("div", {}, table, this.nothing, this.log.element));
  }

  show({ replicas }) {
    const ids = new Set(replicas.map(({ id }) => id));
    const isFirst = !this.live.length && !this.ended.length;
    const isOneGone = this.live.some(({ id }) => !ids.has(id));
    this.live = replicas;
    if (isFirst || isOneGone) this.readEnded();
    this.showRows();
  }

  async readEnded() {
    const since = Date.now() / 1000 - SHOWN_S;
    this.ended = (await listEnded(this.app, since).catch(() => [])).slice(0, MOST_ENDED);
    this.showRows();
  }

  showRows() {
    const ids = new Set(this.live.map(({ id }) => id));
    this.rows.show([...this.live, ...this.ended.filter(({ id }) => !ids.has(id))]);
    this.nothing.hidden = this.rows.views.size > 0;
  }

  openLog(id) {
    if (this.log.replica === id) this.log.close();
    else this.log.open(id);
  }
}

class Row {
  constructor({ id }, openLog) {
    this.state = makeState();
    this.reason = h("span", { class: "reason" });
    this.since = ago();
    this.revision = h("span");
    this.gpus = h("span");
    this.running = h("span");
    this.stop = button("Stop", () => this.end("stop"), `Stop ${id}`);
    this.kill = button("Kill", () => this.end("kill"), `Kill ${id}`);
    this.element = h(
      "tr",
      {},
      h("th", { scope: "row" }, h("code", {}, id)),
      cell("State", this.state, this.reason),
      cell("Since", this.since),
      cell("Revision", this.revision),
      cell("GPUs", this.gpus),
      cell("Requests", this.running),
      h("td", { class: "doing" }, button("Log", openLog, `Log of ${id}`), this.stop, this.kill),
    );
  }

  show(replica) {
    const isOver = replica.state === "terminated";
    this.replica = replica;
    showState(this.state, replica.state);
    say(this.reason, replica.reason ?? "");
    setAgo(this.since, replica.since);
    say(this.revision, String(replica.number));
    say(this.gpus, replica.gpus.length ? String(replica.gpus.length) : "CPU");
    this.gpus.title = replica.gpus.join(", ");
    say(this.running, isOver ? "" : String(replica.running));
    this.element.classList.toggle("over", isOver);
    this.stop.hidden = this.kill.hidden = isOver;
    this.stop.disabled = replica.state === "draining" || replica.state === "terminating";
  }

  end(how) {
    const { id, running } = this.replica;
    const isKill = how === "kill";
    const count = running === 1 ? "the request" : `the ${running} requests`;
    const work = running ? count : "anything";
    ask({
      title: `${isKill ? "Kill" : "Stop"} replica ${id}?`,
      text: isKill
        ? `It ends at once. ${running ? `What it works on fails or is tried again: ${running}.` : ""}`
        : `It ends when it has done ${running ? work : "what it works on: nothing now"}.`,
      action: isKill ? "Kill" : "Stop",
      // The answer comes when it has ended, which may take long; the table shows how it goes.
      work: async () => void endReplica(id, how).catch(() => {}),
    });
  }
}
