/** The requests of an app that went through its queue, the newest first. */

import { cancel } from "../api.js";
import { h, timeInWords } from "../dom.js";
import { toFragment } from "../link.js";
import { flushQueue, listRequests } from "./calls.js";
import { ask } from "./dialog.js";
import { Keyed, say } from "./keyed.js";
import { ago, setAgo } from "./moment.js";
import { button, cell, makeSection, makeTable } from "./section.js";
import { makeState, showState } from "./state.js";

const PAGE = 20;
const MOST = 1000;
// A busy app's list is read at most this often.
const PAUSE_MS = 1000;

export class Requests {
  constructor(app) {
    this.app = app;
    this.limit = PAGE;
    this.counts = null;
    this.filter = h(
      "select",
      { "aria-label": "Which requests", onchange: () => this.refresh() },
      h("option", { value: "" }, "All"),
      h("option", { value: "queued" }, "Queued"),
      h("option", { value: "running" }, "Running"),
      h("option", { value: "done" }, "Done"),
    );
    this.flush = button("Flush queue", () => this.askToFlush());
    const columns = ["Request", "State", "Came", "Took"];
    const { table, rows } = makeTable("Requests", ...columns);
    this.rows = new Keyed(
      rows,
      ({ request_id: id }) => id,
      (each) => new Row(this, each),
    );
    this.nothing = h("p", { class: "nothing" }, "None, or none that is still kept.");
    this.problem = h("p", { class: "problem", role: "alert" });
    this.more = button("Show more", () => this.showMore());
    const body = h("div", {}, table, this.nothing, this.problem, this.more);
    this.element = makeSection("Queue", body, this.filter, this.flush);
  }

  show({ requests }) {
    this.queued = requests.queued;
    this.flush.disabled = !requests.queued;
    const counts = JSON.stringify(requests);
    if (counts !== this.counts) this.refresh();
    this.counts = counts;
  }

  showMore() {
    this.limit = Math.min(MOST, this.limit + 5 * PAGE);
    this.refresh();
  }

  /** Reads the list, and once more if it was asked for meanwhile. */
  async refresh() {
    this.isStale = true;
    if (this.isReading) return;
    this.isReading = true;
    while (this.isStale) {
      this.isStale = false;
      await this.read();
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    this.isReading = false;
  }

  async read() {
    try {
      const listed = await listRequests(this.app, this.filter.value, this.limit);
      this.rows.show(listed);
      this.nothing.hidden = listed.length > 0;
      this.more.hidden = listed.length < this.limit || this.limit === MOST;
      say(this.problem, "");
    } catch (error) {
      say(this.problem, error.message);
    }
  }

  cancel(id) {
    cancel(this.app, id).catch((error) => say(this.problem, error.message));
  }

  askToFlush() {
    ask({
      title: "Flush the queue?",
      text: `The ${this.queued} requests that wait are cancelled; those that run go on.`,
      action: "Flush",
      work: () => flushQueue(this.app),
    });
  }
}

class Row {
  constructor(requests, { request_id: id }) {
    this.app = requests.app;
    this.state = makeState();
    this.error = h("span", { class: "reason" });
    this.came = ago();
    this.took = h("span");
    this.link = h("a", { title: `See ${id} in the playground` }, h("code", {}, id.slice(0, 8)));
    this.cancel = button("Cancel", () => requests.cancel(id), `Cancel ${id}`);
    this.element = h(
      "tr",
      {},
      h("th", { scope: "row" }, this.link),
      cell("State", this.state, this.error),
      cell("Came", this.came),
      cell("Took", this.took),
      h("td", { class: "doing" }, this.cancel),
    );
  }

  show(request) {
    const { state, error, path, request_id: requestId } = request;
    showState(this.state, ended(request) ?? state);
    say(this.error, error ?? "");
    setAgo(this.came, request.submitted_at);
    say(this.took, duration(request));
    const [endpoint] = path.split("?");
    this.link.href = `/playground/${this.app}${toFragment({ path: endpoint || "/", requestId })}`;
    this.cancel.hidden = state === "done";
  }
}

function ended({ state, status_code: status, error_type: type }) {
  if (state !== "done") return null;
  if (status === 499 || type === "cancelled") return "cancelled";
  return status >= 400 ? "failed" : "completed";
}

function duration({ started_at: startedAt, finished_at: finishedAt, attempts }) {
  const isKnown = startedAt !== null && finishedAt !== null;
  const words = [isKnown && timeInWords(finishedAt - startedAt), attempts > 1 && `try ${attempts}`];
  return words.filter(Boolean).join(", ");
}
