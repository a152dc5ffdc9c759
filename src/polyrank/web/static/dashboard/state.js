/** States, as a dot and a word. */

import { h } from "../dom.js";
import { say } from "./keyed.js";

const TONES = {
  ready: "good",
  serves: "good",
  done: "good",
  completed: "good",
  idle: "good",
  running: "busy",
  deploying: "wait",
  pending: "wait",
  building: "wait",
  setup: "wait",
  queued: "wait",
  failed: "bad",
  cancelled: "off",
};

/** An element for a state; `showState` gives it one. */
export function makeState() {
  return h("span", { class: "state" });
}

/** The state of an app: while it is deployed for the first time, it is nothing else yet. */
export function stateOf(app, deployment) {
  return !app.revision && deployment?.state === "running" ? "deploying" : app.state;
}

/** Shows a state. What comes behind a colon, the reason, is in the title. */
export function showState(element, state) {
  const [word] = state.split(":");
  const isOnTheWay = /^(loading|starting|waiting|building its)/.test(state);
  element.className = `state ${TONES[word] ?? (isOnTheWay ? "wait" : "off")}`;
  element.title = state === word ? "" : state;
  say(element, word);
}
