/** The right-hand side: how a run stands, what it shows on the way, and what came of it. */

import { copy, h, icon, timeInWords } from "./dom.js";
import { Preview, showError, showResult } from "./result.js";
import { LANGUAGES, shown } from "./snippets.js";
import { Tabs } from "./tabs.js";
import { tree } from "./tree.js";

const WORDS = {
  connecting: "Connecting",
  connected: "Connected",
  sending: "Sending",
  queued: "Queued",
  running: "Running",
  lost: "Connection lost, trying again",
  completed: "Completed",
  failed: "Failed",
  cancelled: "Cancelled",
};

export class Output {
  constructor() {
    this.status = document.getElementById("status");
    this.progress = document.getElementById("progress");
    this.bar = this.progress.firstElementChild;
    this.preview = new Preview();
    this.resultPanel = h("div", { class: "panel" });
    this.jsonPanel = h("div", { class: "panel tree" });
    this.logPanel = h("div", { class: "panel log", tabIndex: 0 });
    this.codePanel = h("div", { class: "panel code" });
    this.tabs = new Tabs(document.getElementById("tabs"), document.getElementById("views"), {
      Result: this.resultPanel,
      JSON: this.jsonPanel,
      Log: this.logPanel,
      Code: this.codePanel,
    });
    this.clock = null;
    this.clear();
  }

  /** Nothing has run yet. */
  clear() {
    this.stopClock();
    this.run = null;
    this.status.replaceChildren(h("span", { class: "faint" }, "Nothing has run yet"));
    this.progress.hidden = true;
    this.resultPanel.replaceChildren(idle());
    this.jsonPanel.replaceChildren();
    this.showLog([]);
  }

  /** Shows a run, now and whenever it changes. */
  watch(run) {
    this.clear();
    this.run = run;
    this.logged = 0;
    this.resultPanel.replaceChildren(this.preview.element);
    this.preview.show(null);
    this.hasResult = false;
    run.addEventListener("change", () => run === this.run && this.show());
    this.clock = setInterval(() => this.showStatus(), 100);
    this.show();
  }

  show() {
    const { run } = this;
    this.showStatus();
    this.showProgress();
    this.preview.show(run.preview);
    const entries = [...run.logs, ...run.events.map(eventAsLog)];
    if (entries.length !== this.logged) this.showLog(entries);
    this.logged = entries.length;
    if (run.isOver) this.showEnd();
    else if (run.events.length && !run.preview) this.showLatest(run.result);
  }

  showStatus() {
    const { run } = this;
    if (!run) return;
    const spent = run.isOver ? run.seconds : (Date.now() - run.startedAt) / 1000;
    const reason = run.isOver ? "" : run.isCancelling ? "cancelling" : run.reason;
    this.status.className = `status ${run.state}`;
    this.status.replaceChildren(
      h("span", { class: "dot" }),
      h("strong", {}, WORDS[run.state]),
      h("span", { class: "reason" }, reason),
      h("span", { class: "time", "aria-hidden": "true" }, spent === null ? "" : timeInWords(spent)),
      run.requestId ? this.requestButton(run.requestId) : "",
    );
  }

  requestButton(id) {
    const short = `${id.slice(0, 8)}…`;
    return h(
      "button",
      {
        type: "button",
        class: "quiet id",
        title: `Copy the request's id, ${id}`,
        onclick: (event) => copy(id, event.currentTarget),
      },
      short,
    );
  }

  showProgress() {
    const { isOver, progress } = this.run;
    this.progress.hidden = isOver || this.run.isLive;
    this.progress.classList.toggle("unknown", progress === null);
    this.bar.style.width = progress === null ? "" : `${100 * progress}%`;
    this.progress.setAttribute("role", "progressbar");
    this.progress.setAttribute("aria-label", "Progress");
    if (progress === null) this.progress.removeAttribute("aria-valuenow");
    else this.progress.setAttribute("aria-valuenow", String(Math.round(100 * progress)));
  }

  /** The newest event of a stream that has no pictures. */
  showLatest(value) {
    this.resultPanel.replaceChildren(this.preview.element, showResult(value));
  }

  showEnd() {
    this.stopClock();
    const { run } = this;
    if (run.state === "completed") {
      this.resultPanel.replaceChildren(showResult(run.result));
    } else if (run.state === "failed") {
      this.resultPanel.replaceChildren(showError(run.error));
    } else {
      const note = h(
        "p",
        { class: "nothing" },
        "Cancelled. What was shown on the way is all there is.",
      );
      this.resultPanel.replaceChildren(this.preview.element, note);
    }
    this.showJson(
      run.state === "failed" ? { status: run.error.status, detail: run.error.detail } : run.result,
    );
  }

  showJson(value) {
    if (value === undefined) return this.jsonPanel.replaceChildren();
    const button = h(
      "button",
      {
        type: "button",
        class: "plain copy",
        onclick: () => copy(JSON.stringify(value, null, 2), button),
      },
      icon("copy"),
      "Copy",
    );
    this.jsonPanel.replaceChildren(button, tree(value));
  }

  showLog(entries) {
    const isAtEnd =
      this.logPanel.scrollTop + this.logPanel.clientHeight >= this.logPanel.scrollHeight - 8;
    const lines = entries.map(({ message, level, timestamp }) =>
      h(
        "div",
        { class: `line ${(level ?? "").toLowerCase()}` },
        timestamp ? h("time", {}, clock(timestamp)) : "",
        message,
      ),
    );
    const none = h("p", { class: "nothing" }, "No log lines.");
    this.logPanel.replaceChildren(...(lines.length ? lines : [none]));
    this.tabs.count("Log", entries.length);
    if (isAtEnd) this.logPanel.scrollTop = this.logPanel.scrollHeight;
  }

  /** The call in other languages. */
  showCode(call) {
    const written = Object.entries(LANGUAGES).map(([name, make]) => [name, make(call)]);
    const blocks = written
      .filter(([, code]) => code !== null)
      .map(([name, code]) => {
        const button = h(
          "button",
          {
            type: "button",
            class: "plain copy",
            "aria-label": `Copy the ${name} code`,
            onclick: () => copy(code, button),
          },
          icon("copy"),
          "Copy",
        );
        return h(
          "section",
          {},
          h("h2", {}, name),
          button,
          h("pre", { tabIndex: 0, dataset: { language: name } }, h("code", {}, shown(code))),
        );
      });
    this.codePanel.replaceChildren(...blocks);
  }

  stopClock() {
    clearInterval(this.clock);
    this.clock = null;
  }
}

function idle() {
  return h(
    "div",
    { class: "idle" },
    h("img", { src: "/static/favicon.svg", alt: "", width: 56, height: 56 }),
    h("p", {}, "The result appears here."),
    h(
      "p",
      { class: "faint" },
      h("kbd", {}, "Ctrl"),
      " ",
      h("kbd", {}, "Enter"),
      " runs, ",
      h("kbd", {}, "Esc"),
      " cancels",
    ),
  );
}

/** The time of day here. */
function clock(timestamp) {
  return new Date(timestamp).toLocaleTimeString([], { hourCycle: "h23" });
}

/** An event of a stream as a line, without its pictures. */
function eventAsLog(event) {
  const text = JSON.stringify(event, (_, value) =>
    typeof value === "string" && value.startsWith("data:")
      ? `${value.slice(0, value.indexOf(",") + 1)}…`
      : value,
  );
  return { message: text, level: "event" };
}
