/** Objects: a fixed set of fields. */

import { h } from "../dom.js";
import { Control } from "./control.js";

// Of a form's optional fields, how many stay in sight, and how many are worth folding.
const IN_SIGHT = 6;
const WORTH_FOLDING = 3;

/** An object's fields, one below the other. */
export class GroupControl extends Control {
  constructor(field, make) {
    super(field);
    this.parts = new Map(field.fields.map((each) => [each.name, make(each)]));
    this.body = h("div", { class: "fields" }, ...this.arranged());
    const isWhole = field.name === "" && !field.title;
    if (isWhole) this.element.append(this.body, this.problem);
    else this.layOutGroup(this.body, this.makeSwitch());
    this.value = field.default;
  }

  get controls() {
    return [...this.parts.values()];
  }

  get value() {
    if (this.isOff) return this.field.default && this.field.nullable ? null : undefined;
    const entries = [...this.parts].map(([name, control]) => [name, control.value]);
    return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
  }

  set value(value) {
    if (this.switch) {
      this.switch.checked = value !== undefined && value !== null;
      this.body.hidden = !this.switch.checked;
    }
    for (const [name, control] of this.parts) {
      control.value = value?.[name] === undefined ? control.field.default : value[name];
    }
  }

  child(step) {
    return this.parts.get(step) ?? null;
  }

  get isOff() {
    return this.switch !== undefined && !this.switch.checked;
  }

  /** The fields, with the less important ones of a long form folded away. */
  arranged() {
    const isTop = this.field.isTop === true;
    const [shown, folded] = [[], []];
    for (const control of this.controls) {
      const { required, kind } = control.field;
      const isShown = !isTop || required || kind === "file" || shown.length < IN_SIGHT;
      (isShown ? shown : folded).push(control.element);
    }
    if (folded.length < WORTH_FOLDING) return [...shown, ...folded];
    const title = h(
      "summary",
      {},
      "More settings",
      h("span", { class: "count" }, String(folded.length)),
    );
    return [
      ...shown,
      h("details", { class: "more" }, title, h("div", { class: "fields" }, ...folded)),
    ];
  }

  /** Whether an optional object is there at all. */
  makeSwitch() {
    const { required, nullable, title } = this.field;
    const isOptional =
      nullable || (!required && this.field.default === undefined && this.field.name);
    if (!isOptional) return null;
    this.switch = h("input", { type: "checkbox", role: "switch", "aria-label": `Give ${title}` });
    this.switch.addEventListener("input", () => (this.body.hidden = this.isOff));
    return this.switch;
  }
}
