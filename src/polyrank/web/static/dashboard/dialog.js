/** Questions before something that cannot be taken back. */

import { h, uniqueId } from "../dom.js";

/**
 * Asks, and does it: `work(chosen)` gets the chosen one of `choices`, `{ value, label, help }`. The
 * dialog stays with the reason if the server refuses.
 */
export function ask({ title, text, action, choices = [], work }) {
  const name = uniqueId("choice");
  const problem = h("p", { class: "problem", role: "alert" });
  const radios = choices.map(({ value, label, help }, at) =>
    h(
      "label",
      { class: "choice" },
      h("input", { type: "radio", name, value, checked: at === 0 }),
      h("span", {}, label, h("span", { class: "help" }, help)),
    ),
  );
  const act = h("button", { type: "submit", class: "primary" }, action);
  const close = () => dialog.close();
  const answer = async (event) => {
    event.preventDefault();
    act.disabled = true;
    try {
      await work(dialog.querySelector("input:checked")?.value);
      close();
    } catch (error) {
      problem.textContent = error.message;
      act.disabled = false;
    }
  };
  const dialog = h(
    "dialog",
    { "aria-label": title, onclose: () => dialog.remove() },
    h(
      "form",
      { method: "dialog", onsubmit: answer },
      h("h2", {}, title),
      h("p", { class: "help" }, text),
      ...radios,
      problem,
      h(
        "div",
        { class: "actions" },
        act,
        h("button", { type: "button", class: "plain", onclick: close }, "Not now"),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

export const STRATEGIES = [
  {
    value: "rolling",
    label: "Rolling",
    help: "New replicas are ready before old ones end: no request fails.",
  },
  {
    value: "recreate",
    label: "Recreate",
    help: "Old replicas end first: for where there is no room for both.",
  },
];
