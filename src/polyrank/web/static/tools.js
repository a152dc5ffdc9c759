/** What stands in the bar of every page: the key for this server, and the theme. */

import { key } from "./api.js";
import { h, icon, iconButton } from "./dom.js";

const THEMES = ["system", "light", "dark"];

/** Fills the bar's tools; `onKey` is told of a new key. */
export function makeTools(place, onKey) {
  const dialog = makeKeyDialog(onKey);
  const keyButton = iconButton("key", "API key", () => dialog.showModal());
  const themeButton = iconButton("theme", themeLabel(), () => {
    const { dataset } = document.documentElement;
    dataset.theme = THEMES[(THEMES.indexOf(dataset.theme) + 1) % THEMES.length];
    localStorage.setItem("polyrank.theme", dataset.theme);
    themeButton.title = themeLabel();
    themeButton.setAttribute("aria-label", themeLabel());
  });
  place.append(keyButton, themeButton, dialog);
  let link = null;
  return {
    askForKey: () => dialog.open || dialog.showModal(),
    /** Leads to the page that shows how apps are doing; null where there is none. */
    linkDashboard(path) {
      link?.remove();
      link = path && h("a", { class: "quiet words", href: path }, icon("gauge"), "Dashboard");
      if (link) place.prepend(link);
    },
  };
}

function themeLabel() {
  return `Theme: ${document.documentElement.dataset.theme}`;
}

function makeKeyDialog(onKey) {
  const input = h("input", {
    type: "password",
    id: "key",
    autocomplete: "off",
    placeholder: "id:secret",
  });
  const keep = () => {
    key.value = input.value.trim();
    dialog.close();
    onKey();
  };
  const form = h(
    "form",
    { method: "dialog", onsubmit: (event) => (event.preventDefault(), keep()) },
    h("h2", {}, "API key"),
    h(
      "p",
      { class: "help" },
      "Sent with every call to this server, and forgotten when this tab is closed. " +
        "A server on this machine may need none.",
    ),
    h("label", { for: "key" }, "Key"),
    input,
    h(
      "div",
      { class: "actions" },
      h("button", { type: "submit", class: "primary" }, "Use"),
      h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Close"),
    ),
  );
  const dialog = h("dialog", { class: "key" }, form);
  dialog.addEventListener("beforetoggle", () => (input.value = key.value));
  return dialog;
}
