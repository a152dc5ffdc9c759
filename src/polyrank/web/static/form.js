/** A form for an endpoint's input: its controls, their values, and problems at their places. */

import { h } from "./dom.js";
import {
  ChoiceControl,
  ConstantControl,
  ToggleControl,
  optionalToggle,
} from "./controls/choice.js";
import { FileControl } from "./controls/file.js";
import { GroupControl } from "./controls/group.js";
import { ListControl, MapControl } from "./controls/list.js";
import { NumberControl } from "./controls/number.js";
import { SizeControl } from "./controls/size.js";
import { JsonControl, TextControl } from "./controls/text.js";
import { UnionControl } from "./controls/union.js";

const KINDS = {
  text: TextControl,
  number: NumberControl,
  toggle: ToggleControl,
  choice: ChoiceControl,
  constant: ConstantControl,
  file: FileControl,
  size: SizeControl,
  list: ListControl,
  map: MapControl,
  group: GroupControl,
  union: UnionControl,
  any: JsonControl,
};

/** The control of a field, with its default in it. */
export function makeControl(field) {
  const isOptionalToggle =
    field.kind === "toggle" && (field.nullable || field.default === undefined);
  const control =
    isOptionalToggle && !field.required
      ? optionalToggle(field)
      : new KINDS[field.kind](field, makeControl);
  if (field.default !== undefined) control.value = field.default;
  return control;
}

/** The form of one endpoint. */
export class Form {
  constructor(field) {
    this.general = h("p", { class: "problem", role: "alert", hidden: true });
    this.root = field && makeControl({ ...field, title: "", help: "", isTop: true });
    const nothing = h("p", { class: "nothing" }, "This endpoint takes no input.");
    this.element = h(
      "div",
      { class: "form" },
      this.root ? this.root.element : nothing,
      this.general,
    );
    if (this.root && field.kind !== "group") this.element.classList.add("single");
    this.text = null; // while the input is written as JSON
  }

  /** Whether the input is written as JSON, for what a form cannot say. */
  get isJson() {
    return this.text !== null;
  }

  set isJson(isJson) {
    if (isJson === this.isJson || !this.root) return;
    const { value } = this;
    this.text = isJson
      ? new JsonControl({ kind: "any", name: "", title: "Input", help: "" })
      : null;
    this.element.firstElementChild.replaceWith(isJson ? this.text.element : this.root.element);
    this.value = value;
  }

  /** Resolves when all uploads have ended. */
  get settled() {
    return Promise.resolve(this.root?.settled);
  }

  /** The request's body; undefined for an endpoint without one. */
  get value() {
    return this.root ? ((this.text ?? this.root).value ?? {}) : undefined;
  }

  set value(value) {
    this.clearProblems();
    if (this.root) (this.text ?? this.root).value = value;
  }

  clearProblems() {
    this.general.hidden = true;
    this.root?.clearProblems();
  }

  /** Shows what is wrong at the fields that it is wrong with. `problems` are `{ loc, msg }`. */
  showProblems(problems, { focus = true } = {}) {
    this.clearProblems();
    const places = problems.map(({ loc, msg }) => [this.find(loc), sentence(msg), loc]);
    for (const [control, text] of places) control?.showProblem(text);
    const homeless = places.filter(([control]) => !control);
    if (homeless.length) {
      this.general.textContent = homeless
        .map(([, text, loc]) => `${loc.join(".")}: ${text}`)
        .join("\n");
      this.general.hidden = false;
    }
    if (focus) places.find(([control]) => control)?.[0].focus();
  }

  /** The control that an error's path leads to, or the last one on the way. */
  find(loc) {
    let control = this.isJson ? null : this.root;
    let found = null;
    for (const step of loc[0] === "body" ? loc.slice(1) : loc) {
      const next = control?.child(step);
      if (next) [control, found] = [next, next];
    }
    return found;
  }

  /** Gives a pasted file to the first control that has none and takes it. */
  takeFile(file) {
    const all = [...within(this.root)].filter((each) => each instanceof FileControl);
    const fitting = all.filter((each) => each.takes(file));
    const control = fitting.find((each) => !each.url) ?? fitting[0];
    control?.take(file);
    return Boolean(control);
  }
}

function* within(control) {
  if (!control) return;
  yield control;
  for (const inner of control.controls) yield* within(inner);
}

function sentence(text) {
  return text.replace(/^Value error, /, "");
}
