/** A value of one of several kinds. */

import { h } from "../dom.js";
import { Control } from "./control.js";

/** A choice of kinds, and the control of the one chosen. */
export class UnionControl extends Control {
  constructor(field, make) {
    super(field);
    this.variants = field.variants.map((each) =>
      make({ ...each, name: "", title: "", help: each.help, required: true }),
    );
    const isOptional = field.nullable || (!field.required && field.default === undefined);
    const none = isOptional ? [h("option", { value: "-1" }, "default")] : [];
    const options = field.variants.map((each, at) =>
      h("option", { value: String(at) }, nameOf(each, field.tag)),
    );
    const label = { "aria-label": `Kind of ${field.title}` };
    this.chooser = h("select", { class: "kind", ...label }, ...none, ...options);
    this.chooser.addEventListener("input", () => this.show());
    this.body = h("div", { class: "variant" });
    this.layOutGroup(this.body, this.chooser);
    this.value = field.default;
  }

  get chosen() {
    return this.variants[Number(this.chooser.value)] ?? null;
  }

  get controls() {
    return this.chosen ? [this.chosen] : [];
  }

  get value() {
    return this.chosen ? this.chosen.value : this.empty;
  }

  set value(value) {
    const isNone = value === undefined || value === null;
    const at = isNone ? -1 : this.field.variants.findIndex((each) => fits(each, value));
    const first = this.chooser.options[0].value;
    this.chooser.value = at === -1 ? first : String(at);
    this.show();
    if (at !== -1) this.chosen.value = value;
  }

  child(step) {
    return this.chosen?.child(step) ?? null;
  }

  show() {
    this.body.replaceChildren(...this.controls.map((each) => each.element));
  }
}

function nameOf(field, tag) {
  const constant = tag && field.fields?.find((each) => each.name === tag);
  if (constant) return String(constant.value ?? constant.default ?? field.model);
  const plain = { text: "text", toggle: "yes or no", list: "list", map: "map", any: "JSON" };
  if (field.kind === "number") return field.isWhole ? "whole number" : "number";
  if (field.kind === "choice") return field.options.join(" | ").slice(0, 40);
  if (field.kind === "file") return field.accepts;
  return field.model || plain[field.kind] || field.kind;
}

/** Whether a value is of a field's kind. */
export function fits(field, value) {
  switch (field.kind) {
    case "text":
      return typeof value === "string";
    case "number":
      return typeof value === "number" && (!field.isWhole || Number.isInteger(value));
    case "toggle":
      return typeof value === "boolean";
    case "choice":
      return field.options.includes(value);
    case "constant":
      return field.value === value;
    case "list":
      return Array.isArray(value);
    case "file":
      return typeof value === "string" || typeof value?.url === "string";
    case "size":
      return field.options.includes(value) || typeof value === "object";
    case "group":
      return isObject(value) && fitsGroup(field, value);
    case "map":
      return isObject(value);
    case "union":
      return field.variants.some((each) => fits(each, value));
    default:
      return true;
  }
}

function fitsGroup(field, value) {
  const names = field.fields.map((each) => each.name);
  const isKnown = Object.keys(value).every((name) => names.includes(name));
  return (
    isKnown &&
    field.fields.every(({ name, required, ...each }) =>
      value[name] === undefined ? !required : value[name] === null || fits(each, value[name]),
    )
  );
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
