/** A picture's size: a preset, or width and height. */

import { h } from "../dom.js";
import { Control } from "./control.js";

const RATIOS = {
  square_hd: [1, 1],
  square: [1, 1],
  portrait_4_3: [3, 4],
  portrait_16_9: [9, 16],
  landscape_4_3: [4, 3],
  landscape_16_9: [16, 9],
};
const NAMES = {
  square_hd: "square HD",
  portrait_4_3: "3:4",
  portrait_16_9: "9:16",
  landscape_4_3: "4:3",
  landscape_16_9: "16:9",
};
const CUSTOM = "custom";

/** The union of an enum of presets and an object with `width` and `height`. */
export class SizeControl extends Control {
  constructor(field, make) {
    super(field);
    this.custom = make({ ...field.size, name: "", title: "", help: "" });
    this.custom.value = { width: 1024, height: 1024 };
    this.custom.element.hidden = true;
    this.buttons = new Map();
    const tiles = [...field.options, CUSTOM].map((name) => this.makeTile(name));
    const row = h("div", { class: "tiles" }, ...tiles);
    row.addEventListener("change", () => this.showCustom());
    this.layOutGroup(h("div", {}, row, this.custom.element));
  }

  get controls() {
    return [this.custom];
  }

  get value() {
    const [chosen] = [...this.buttons].find(([, button]) => button.checked) ?? [];
    return chosen === CUSTOM ? this.custom.value : chosen;
  }

  set value(value) {
    const name = typeof value === "object" && value !== null ? CUSTOM : value;
    if (name === CUSTOM) this.custom.value = value;
    for (const [each, button] of this.buttons) button.checked = each === name;
    this.showCustom();
  }

  child(step) {
    return this.custom.child(step);
  }

  showCustom() {
    this.custom.element.hidden = !this.buttons.get(CUSTOM).checked;
  }

  makeTile(name) {
    const button = h("input", { type: "radio", name: this.id, value: name });
    this.buttons.set(name, button);
    const [wide, high] = RATIOS[name] ?? [1, 1];
    const shape = h("i", { class: name === CUSTOM || !RATIOS[name] ? "shape free" : "shape" });
    shape.style.aspectRatio = `${wide} / ${high}`;
    shape.style[wide >= high ? "width" : "height"] = name === "square" ? "60%" : "100%";
    const label = NAMES[name] ?? name.replaceAll("_", " ");
    return h(
      "label",
      { title: name },
      button,
      h("span", { class: "frame" }, shape),
      h("span", {}, label),
    );
  }
}
