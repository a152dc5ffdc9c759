/** What all inputs of a form have in common: a label, help, a value, a place for a problem. */

import { h, uniqueId } from "../dom.js";

/**
 * One field's input. Subclasses fill `element`, and have a `value`: undefined leaves the field out
 * of the request, so that the app's default holds.
 */
export class Control {
  constructor(field) {
    this.field = field;
    this.id = uniqueId(field.name || "field");
    this.problem = h("p", { class: "problem", id: `${this.id}-problem`, hidden: true });
    this.problem.setAttribute("role", "alert");
    this.help = field.help ? h("p", { class: "help", id: `${this.id}-help` }, field.help) : null;
    this.element = h("div", { class: `control ${field.kind}` });
  }

  /** The controls inside this one. */
  get controls() {
    return [];
  }

  /** Resolves when the value is complete: uploads have ended. */
  get settled() {
    return Promise.all(this.controls.map((each) => each.settled));
  }

  /** The control of a part of the value, by a step of an error's path. */
  child(_step) {
    return null;
  }

  /** Attributes that tie an input to its label's help and problem. */
  get described() {
    const help = this.help ? `${this.id}-help ` : "";
    return { id: this.id, "aria-describedby": `${help}${this.id}-problem` };
  }

  /** A row with a label for one input. `beside` stands at the end of the label's line. */
  layOut(input, beside = null) {
    const { field } = this;
    this.input = input;
    const label = h("label", { for: this.id, title: field.name }, field.title, this.mark());
    this.element.append(h("div", { class: "label" }, label, beside ?? ""));
    if (this.help) this.element.append(this.help);
    this.element.append(input.parentElement ?? input, this.problem);
  }

  /** A row with a title for several inputs. */
  layOutGroup(content, beside = null) {
    const { field } = this;
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-labelledby", `${this.id}-title`);
    const title = h(
      "span",
      { id: `${this.id}-title`, title: field.name },
      field.title,
      this.mark(),
    );
    this.element.append(h("div", { class: "label" }, title, beside ?? ""));
    if (this.help) this.element.append(this.help);
    this.element.append(content, this.problem);
  }

  mark() {
    const { required, nullable } = this.field;
    const shown = required && !nullable && this.field.name;
    return shown ? h("span", { class: "required", title: "required" }, "*") : null;
  }

  /** What an empty input stands for: nothing, or the wish not to have the default. */
  get empty() {
    const { default: given, nullable, kind } = this.field;
    if (given === undefined || given === null || given === "") return undefined;
    if (nullable) return null;
    return kind === "text" ? "" : undefined;
  }

  showProblem(text) {
    this.problem.textContent = text;
    this.problem.hidden = false;
    this.element.classList.add("wrong");
    this.input?.setAttribute("aria-invalid", "true");
    for (let at = this.element; at; at = at.parentElement?.closest("details")) {
      if (at.tagName === "DETAILS") at.open = true;
    }
  }

  clearProblems() {
    this.problem.hidden = true;
    this.element.classList.remove("wrong");
    this.input?.removeAttribute("aria-invalid");
    this.controls.forEach((each) => each.clearProblems());
  }

  focus() {
    (this.input ?? this.element.querySelector("input, textarea, select, button"))?.focus();
  }

  /** Tells the form that the value is another one, where no input element does. */
  announce() {
    this.element.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
