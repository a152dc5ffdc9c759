/** One of several: switches, and lists to choose from. */

import { h } from "../dom.js";
import { Control } from "./control.js";

const MOST_BUTTONS = 4;
const MOST_LETTERS = 34;

/** A boolean that is on or off. */
export class ToggleControl extends Control {
  constructor(field) {
    super(field);
    this.input = h("input", {
      ...this.described,
      type: "checkbox",
      role: "switch",
      name: field.name,
    });
    const label = h("label", { for: this.id, title: field.name }, field.title);
    this.element.append(h("div", { class: "toggle-row" }, label, this.input));
    if (this.help) this.element.append(this.help);
    this.element.append(this.problem);
  }

  get value() {
    return this.input.checked;
  }

  set value(value) {
    this.input.checked = value === true;
  }
}

/** One of an enum's values. Few and short ones stand side by side, others in a list. */
export class ChoiceControl extends Control {
  constructor(field) {
    super(field);
    const isOptional = field.nullable || (!field.required && field.default === undefined);
    this.options = isOptional ? [undefined, ...field.options] : field.options;
    const letters = this.options.map(inWords).join("").length;
    this.isRow = this.options.length <= MOST_BUTTONS && letters <= MOST_LETTERS;
    if (this.isRow) this.layOutGroup(this.makeButtons());
    else this.layOut(this.makeSelect());
  }

  get value() {
    const index = this.isRow ? this.buttons.findIndex((each) => each.checked) : this.input.value;
    return index === -1 || index === "" ? undefined : (this.options[index] ?? this.empty);
  }

  set value(value) {
    const index = this.options.indexOf(value ?? undefined);
    if (this.isRow) this.buttons.forEach((each, at) => (each.checked = at === index));
    else this.input.value = index === -1 ? "" : String(index);
  }

  makeButtons() {
    this.buttons = this.options.map((_, index) =>
      h("input", { type: "radio", name: this.id, value: String(index) }),
    );
    const labels = this.options.map((option, index) =>
      h("label", {}, this.buttons[index], h("span", {}, inWords(option))),
    );
    return h("div", { class: "segments" }, ...labels);
  }

  makeSelect() {
    const options = this.options.map((option, index) =>
      h("option", { value: String(index) }, inWords(option)),
    );
    return h("select", { ...this.described, name: this.field.name }, ...options);
  }
}

/** A value that cannot be another. */
export class ConstantControl extends Control {
  constructor(field) {
    super(field);
    this.value = field.value;
    this.element.hidden = true;
  }
}

/** A boolean that may also be left out. */
export function optionalToggle(field) {
  return new ChoiceControl({ ...field, kind: "choice", options: [true, false] });
}

function inWords(option) {
  if (option === undefined) return "default";
  if (option === true) return "yes";
  if (option === false) return "no";
  return String(option);
}
