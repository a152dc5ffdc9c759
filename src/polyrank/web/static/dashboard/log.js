/** The log of one replica, while it is written. */

import { h, iconButton } from "../dom.js";
import { watchLog } from "./calls.js";
import { Connection } from "./connection.js";
import { say } from "./keyed.js";
import { clock } from "./moment.js";
import { Scroll } from "./scroll.js";

const MOST_LINES = 5000;
// What terminals take for colours.
const ESCAPES = /\x1b\[[0-9;?]*[ -/]*[@-~]/g;

export class Log {
  constructor() {
    this.replica = null;
    this.title = h("h3");
    this.search = h("input", {
      type: "search",
      placeholder: "Only lines with …",
      "aria-label": "Only lines with",
      oninput: () => this.filter(),
    });
    this.lines = h("div", { class: "log", role: "log", tabIndex: 0 });
    this.end = h("p", { class: "faint" });
    this.scroll = new Scroll(this.lines);
    this.element = h(
      "div",
      { class: "replica-log", hidden: true },
      h(
        "div",
        { class: "line" },
        this.title,
        this.search,
        iconButton("cross", "Close the log", () => this.close()),
      ),
      this.lines,
      this.end,
    );
  }

  open(replica) {
    this.connection?.stop();
    this.replica = replica;
    say(this.title, `Log of ${replica}`);
    this.lines.setAttribute("aria-label", `Log of ${replica}`);
    this.element.hidden = false;
    this.scroll.clear();
    this.connection = new Connection(
      (signal, heard) => this.read(signal, heard),
      (problem) => say(this.end, problem?.message ?? ""),
    );
    this.connection.start();
    this.element.scrollIntoView({ block: "nearest" });
    this.lines.focus({ preventScroll: true });
  }

  close() {
    this.connection?.stop();
    this.replica = null;
    this.element.hidden = true;
  }

  async read(signal, heard) {
    say(this.end, "");
    let isFirst = true;
    for await (const line of watchLog(this.replica, signal)) {
      heard();
      if (isFirst) this.scroll.clear(); // it begins again after a break
      isFirst = false;
      this.scroll.append(this.entry(line), MOST_LINES);
    }
    say(this.end, "It ends here.");
    return true;
  }

  entry({ time, level, stream, rank, message }) {
    const text = message.replace(ESCAPES, "");
    const kind = /error|critical|stderr/i.test(level) ? "error" : /warn/i.test(level) ? "warn" : "";
    const entry = h(
      "div",
      { class: `entry ${kind} ${stream}` },
      h("time", { dateTime: new Date(time * 1000).toISOString() }, clock(time)),
      rank === undefined ? null : h("span", { class: "rank" }, `rank ${rank}`),
      h("span", {}, text),
    );
    entry.hidden = !this.fits(text);
    return entry;
  }

  fits(text) {
    return text.toLowerCase().includes(this.search.value.toLowerCase());
  }

  filter() {
    this.scroll.flush();
    for (const each of this.lines.children) each.hidden = !this.fits(each.lastChild.textContent);
  }
}
