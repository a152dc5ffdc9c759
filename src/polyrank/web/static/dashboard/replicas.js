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
const MOST_ENDED = 5;

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
      (each) => new Row(each, this),
    );
    this.nothing = h("p", { class: "nothing" }, "No replica runs.");
    this.problem = h("p", { class: "problem", role: "alert" });
    this.log = new Log();
    const body = h("div", {}, table, this.nothing, this.problem, this.log.element);
    this.element = makeSection("Replicas", body);
  }

  show({ replicas }) {
    const ids = new Set(replicas.map(({ id }) => id));
    const isFirst = !this.hasBegun;
    this.hasBegun = true;
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

  /** The answer comes when the replica has ended, which may take long; the rows show how it goes. */
  end(id, how) {
    say(this.problem, "");
    endReplica(id, how).catch((error) => say(this.problem, error.message));
  }
}

class Row {
  constructor({ id }, replicas) {
    this.replicas = replicas;
    const openLog = () => replicas.openLog(id);
    this.state = makeState();
    this.reason = h("span", { class: "reason" });
    this.since = ago();
    this.revision = h("span");
    this.gpus = h("span");
    this.running = h("span");
    this.stop = button("Stop", () => this.askToEnd("stop"), `Stop ${id}`);
    this.kill = button("Kill", () => this.askToEnd("kill"), `Kill ${id}`);
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
    say(this.revision, isOver ? "" : String(replica.number));
    say(this.gpus, replica.gpus.length ? String(replica.gpus.length) : "CPU");
    this.gpus.title = replica.gpus.join(", ");
    say(this.running, isOver ? "" : String(replica.running));
    this.element.classList.toggle("over", isOver);
    this.stop.hidden = this.kill.hidden = isOver;
    this.stop.disabled = replica.state === "draining" || replica.state === "terminating";
  }

  askToEnd(how) {
    const { id, running } = this.replica;
    const count = running === 1 ? "one request" : `${running || "no"} requests`;
    const works = `it works on ${count} now`;
    const [action, text] = {
      stop: ["Stop", `It ends when its work is done; ${works}.`],
      kill: ["Kill", `It ends at once; ${works}.`],
    }[how];
    ask({
      title: `${action} replica ${id}?`,
      text: `${text} Another takes its place where one is wanted.`,
      action,
      work: async () => this.replicas.end(id, how),
    });
  }
}
