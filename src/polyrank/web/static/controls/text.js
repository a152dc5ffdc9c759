/** Text in a line, or in as many as it takes. */

import { h } from "../dom.js";
import { Control } from "./control.js";

/** A string. */
export class TextControl extends Control {
  constructor(field) {
    super(field);
    const hint = { placeholder: String(field.example ?? ""), spellcheck: field.isLong };
    const shared = { ...this.described, ...hint, name: field.name, autocomplete: "off" };
    const input = field.isLong
      ? h("textarea", { ...shared, class: field.required ? "" : "short" })
      : h("input", { ...shared, type: "text" });
    this.layOut(input);
  }

  get value() {
    return this.input.value === "" ? this.empty : this.input.value;
  }

  set value(text) {
    this.input.value = text ?? "";
  }
}

/** Anything, as JSON: for what has no better form. */
export class JsonControl extends Control {
  constructor(field) {
    super(field);
    const shared = { ...this.described, name: field.name, rows: 3, spellcheck: false };
    this.layOut(h("textarea", { ...shared, class: "code", placeholder: "JSON" }));
  }

  /** The value; text that is not JSON stands for itself. */
  get value() {
    const text = this.input.value.trim();
    if (text === "") return this.empty;
    try {
      return JSON.parse(text);
    } catch {
      return this.input.value;
    }
  }

  set value(value) {
    const isText = value === undefined || value === null;
    this.input.value = isText ? "" : JSON.stringify(value, null, 2);
  }
}
