/** Panels of which one is seen, chosen by tabs that the arrow keys walk. */

import { h, uniqueId } from "./dom.js";

export class Tabs {
  /** `panels` are elements by title. */
  constructor(bar, place, panels) {
    this.tabs = new Map();
    for (const [title, panel] of Object.entries(panels)) {
      const id = uniqueId("panel");
      const count = h("span", { class: "count" });
      const tab = h(
        "button",
        {
          type: "button",
          role: "tab",
          id: `${id}-tab`,
          "aria-controls": id,
          onclick: () => this.choose(title),
        },
        title,
        count,
      );
      panel.id = id;
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", `${id}-tab`);
      this.tabs.set(title, { tab, panel, count });
      bar.append(tab);
      place.append(panel);
    }
    bar.addEventListener("keydown", (event) => this.walk(event));
    this.choose(this.tabs.keys().next().value);
  }

  choose(title) {
    this.chosen = title;
    for (const [name, { tab, panel }] of this.tabs) {
      tab.setAttribute("aria-selected", String(name === title));
      tab.tabIndex = name === title ? 0 : -1;
      panel.hidden = name !== title;
    }
  }

  /** A number beside a tab's title; none for 0. */
  count(title, number) {
    this.tabs.get(title).count.textContent = number ? String(number) : "";
  }

  walk(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const titles = [...this.tabs.keys()];
    const next = titles[(titles.indexOf(this.chosen) + step + titles.length) % titles.length];
    this.choose(next);
    this.tabs.get(next).tab.focus();
    event.preventDefault();
  }
}
