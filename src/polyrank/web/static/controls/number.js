/** Numbers, with a slider where both ends are known. */

import { h, iconButton } from "../dom.js";
import { Control } from "./control.js";

/** An integer or a float. */
export class NumberControl extends Control {
  constructor(field) {
    super(field);
    const limits = { min: field.least ?? "", max: field.most ?? "" };
    const step = field.isWhole || field.isExact ? field.step : "any";
    const placeholder = String(field.example ?? (field.name === "seed" ? "random" : ""));
    const input = h("input", {
      ...this.described,
      ...limits,
      step,
      placeholder,
      type: "number",
      name: field.name,
      inputMode: field.isWhole ? "numeric" : "decimal",
      autocomplete: "off",
    });
    this.slider = field.isSlider ? this.makeSlider(limits) : null;
    const beside = field.name === "seed" ? this.makeDice() : null;
    h("div", { class: "number-row" }, ...(this.slider ? [this.slider] : []), input);
    this.layOut(input, beside);
    input.addEventListener("input", () => this.follow());
    this.follow();
  }

  get value() {
    return this.input.value === "" ? this.empty : Number(this.input.value);
  }

  set value(number) {
    this.input.value = number ?? "";
    this.follow();
  }

  makeSlider(limits) {
    const { step, title } = this.field;
    const slider = h("input", { ...limits, step, type: "range", "aria-label": `${title}, slider` });
    slider.tabIndex = -1; // the number beside it takes the same keys
    slider.addEventListener("input", () => {
      this.input.value = slider.value;
      this.paint();
    });
    return slider;
  }

  makeDice() {
    return iconButton("dice", "Draw a random seed", () => {
      const most = Math.min(this.field.most ?? 2 ** 31 - 1, 2 ** 31 - 1);
      this.value = Math.floor(Math.random() * most);
      this.announce();
    });
  }

  /** Moves the slider to where the number is. */
  follow() {
    if (!this.slider) return;
    this.slider.value =
      this.input.value === "" ? (this.field.default ?? this.field.least) : this.input.value;
    this.paint();
  }

  paint() {
    const { least, most } = this.field;
    const part = (this.slider.value - least) / (most - least);
    this.slider.style.setProperty("--part", String(part));
  }
}
