/** A JSON value as a tree that folds. */

import { h } from "./dom.js";

// Longer strings are shown by their beginning; deeper levels begin folded.
const SHOWN_LETTERS = 300;
const OPEN_LEVELS = 3;
const SHOWN_ITEMS = 200;

/** The element of a value, with its name before it. */
export function tree(value, name = null, level = 0) {
  const label = name === null ? [] : [h("span", { class: "key" }, name), ": "];
  if (value === null || typeof value !== "object") {
    return h("div", { class: "leaf" }, ...label, scalar(value));
  }
  const entries = Object.entries(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!entries.length) return h("div", { class: "leaf" }, ...label, open + close);
  const count = entries.length;
  const summary = h(
    "summary",
    {},
    ...label,
    h("span", { class: "count" }, `${open} ${count} ${close}`),
  );
  const node = h("details", { open: level < OPEN_LEVELS && count <= SHOWN_ITEMS }, summary);
  const fill = () => {
    if (node.open && node.childElementCount === 1) node.append(...rows(entries, level));
  };
  node.addEventListener("toggle", fill);
  fill();
  return node;
}

function rows(entries, level) {
  const shown = entries.slice(0, SHOWN_ITEMS).map(([key, each]) => tree(each, key, level + 1));
  const rest = entries.length - SHOWN_ITEMS;
  return rest > 0 ? [...shown, h("div", { class: "leaf faint" }, `… and ${rest} more`)] : shown;
}

function scalar(value) {
  const kind = value === null ? "null" : typeof value;
  const text = JSON.stringify(value);
  if (text.length <= SHOWN_LETTERS) return h("span", { class: kind }, text);
  return h(
    "span",
    { class: kind },
    text.slice(0, 80),
    h("span", { class: "count" }, ` … ${text.length} letters`),
  );
}
