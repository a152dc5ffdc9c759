/** A part of an app's page: a title, what belongs beside it, and a body. */

import { h, uniqueId } from "../dom.js";

export function makeSection(title, body, ...beside) {
  const id = uniqueId("section");
  return h(
    "section",
    { class: "pane", "aria-labelledby": id },
    h("div", { class: "pane-head" }, h("h2", { id }, title), ...beside),
    body,
  );
}

/**
 * A table with these columns and one for what can be done, and the place for its rows. On narrow
 * pages, each row is a card.
 */
export function makeTable(label, ...columns) {
  const rows = h("tbody");
  const head = columns.map((column) => h("th", { scope: "col" }, column));
  head.push(h("th", { scope: "col" }, h("span", { class: "unseen" }, "Actions")));
  const table = h("table", { "aria-label": label }, h("thead", {}, h("tr", {}, ...head)), rows);
  return { table, rows };
}

/** A cell that knows its column's title, for where the table's head is not seen. */
export function cell(column, ...children) {
  return h("td", { dataset: { column } }, ...children);
}

export function button(text, onclick, label = text) {
  return h("button", { type: "button", class: "quiet words", "aria-label": label, onclick }, text);
}
