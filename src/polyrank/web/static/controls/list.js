/** Arrays and maps: as many values of one kind as wanted. */

import { h, icon, iconButton } from "../dom.js";
import { Control } from "./control.js";

/** An array. */
export class ListControl extends Control {
  constructor(field, make) {
    super(field);
    this.make = make;
    this.items = [];
    this.rows = h("div", { class: "items" });
    this.adder = h(
      "button",
      {
        type: "button",
        class: "quiet add",
        "aria-label": `Add to ${field.title}`,
        onclick: () => this.addByHand(),
      },
      icon("plus"),
      "Add",
    );
    this.layOutGroup(this.rows, this.adder);
    this.value = field.default;
  }

  get controls() {
    return this.items.map(({ control }) => control);
  }

  get value() {
    const values = this.controls.map((each) => each.value).filter((each) => each !== undefined);
    const isLeftOut =
      !values.length && (this.field.default === undefined || this.field.default === null);
    return isLeftOut && !this.field.required ? undefined : values;
  }

  set value(values) {
    this.items = [];
    this.rows.replaceChildren();
    const least = this.field.required ? this.field.least : 0;
    const given = Array.isArray(values) ? values : [];
    for (let at = 0; at < Math.max(least, given.length); at += 1) this.add(given[at]);
    this.limit();
  }

  child(step) {
    return this.controls[step] ?? null;
  }

  add(value) {
    const number = this.items.length + 1;
    const title = `${this.field.title} ${number}`;
    const control = this.make({ ...this.field.item, name: this.field.item.name, title, help: "" });
    control.value = value === undefined ? control.field.default : value;
    const remove = iconButton("cross", `Remove ${title}`, () => this.removeByHand(item));
    const item = { control, row: h("div", { class: "item" }, control.element, remove) };
    this.items.push(item);
    this.rows.append(item.row);
    return control;
  }

  addByHand() {
    this.add().focus();
    this.limit();
    this.announce();
  }

  removeByHand(item) {
    const at = this.items.indexOf(item);
    this.items.splice(at, 1);
    item.row.remove();
    this.limit();
    (
      this.controls[Math.min(at, this.items.length - 1)] ?? { focus: () => this.adder.focus() }
    ).focus();
    this.announce();
  }

  /** Nothing can be added to a full list. */
  limit() {
    this.adder.disabled = this.items.length >= this.field.most;
  }
}

/** An object whose keys are the caller's. */
export class MapControl extends ListControl {
  constructor(field, make) {
    const entry = { kind: "entry", name: "", title: "", item: field.item, required: true };
    super(
      { ...field, item: entry, least: 0, most: Infinity },
      (each) => new EntryControl(each, make),
    );
  }

  get value() {
    const entries = this.controls.map((each) => each.value).filter(([name]) => name !== "");
    return entries.length ? Object.fromEntries(entries) : undefined;
  }

  set value(object) {
    super.value = Object.entries(object ?? {});
  }

  child(step) {
    return this.controls.find((each) => each.value[0] === step) ?? null;
  }
}

/** A key and its value. */
class EntryControl extends Control {
  constructor(field, make) {
    super(field);
    this.input = h("input", {
      type: "text",
      placeholder: "name",
      "aria-label": `${field.title}, name`,
    });
    this.inner = make({ ...field.item, title: `${field.title}, value`, help: "" });
    this.element.append(this.input, this.inner.element, this.problem);
  }

  get controls() {
    return [this.inner];
  }

  get value() {
    return [this.input.value, this.inner.value];
  }

  set value(entry) {
    [this.input.value, this.inner.value] = entry ?? ["", undefined];
  }
}
