/** The few figures of an app: its replicas by their states, and how many requests run and wait. */

import { h } from "../dom.js";
import { say } from "./keyed.js";

const ORDER = ["running", "idle", "setup", "building", "pending", "draining", "terminating"];

export class Facts {
  constructor() {
    this.squares = h("span", { class: "squares", "aria-hidden": "true" });
    this.replicas = h("span");
    this.running = h("b");
    this.waiting = h("b");
    this.element = h(
      "dl",
      { class: "facts" },
      fact("Replicas", this.squares, this.replicas),
      fact("Running", this.running),
      fact("Waiting", this.waiting),
    );
  }

  show({ replicas, requests }) {
    const states = replicas.map(({ state }) => state);
    states.sort((one, other) => ORDER.indexOf(one) - ORDER.indexOf(other));
    const colours = states.slice(0, 32).join(" ");
    if (this.colours !== colours) {
      this.colours = colours;
      const squares = states.slice(0, 32).map((state) => h("i", { class: state }));
      this.squares.replaceChildren(...squares);
    }
    say(this.replicas, inWords(states));
    say(this.running, String(requests.running));
    say(this.waiting, String(requests.queued + requests.waiting));
    this.waiting.classList.toggle("some", requests.queued + requests.waiting > 0);
  }
}

function inWords(states) {
  const words = ORDER.map((state) => [states.filter((each) => each === state).length, state])
    .filter(([count]) => count)
    .map(([count, state]) => `${count} ${state}`);
  return words.join(", ") || "none";
}

function fact(title, ...values) {
  return h("div", {}, h("dt", {}, title), h("dd", {}, ...values));
}
