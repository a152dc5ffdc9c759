/** The options of an app that can be changed apart from a deployment. */

import { h, uniqueId } from "../dom.js";
import { scale } from "./calls.js";
import { say } from "./keyed.js";
import { makeSection } from "./section.js";

const FIELDS = [
  ["min_concurrency", "Replicas at least", "replicas"],
  ["max_concurrency", "Replicas at most", "replicas"],
  ["concurrency_buffer", "Spare replicas", "replicas"],
  ["concurrency_buffer_perc", "Spare replicas, of those needed", "%"],
  ["max_multiplexing", "Requests at once", "per replica"],
  ["keep_alive", "Kept without work", "s"],
  ["scaling_delay", "Requests wait before a start", "s"],
  ["startup_timeout", "A start may take", "s"],
  ["request_timeout", "A request may take", "s"],
  ["request_start_timeout", "A request may wait", "s"],
  ["machine_type", "Machine", ""],
];

export class ScalingForm {
  constructor(app) {
    this.app = app;
    this.fields = FIELDS.map((field) => new Field(...field, () => this.showButtons()));
    this.problem = h("p", { class: "problem", role: "alert" });
    this.save = h("button", { type: "submit", class: "primary" }, "Save");
    this.undo = h(
      "button",
      { type: "button", class: "plain", onclick: () => this.forget() },
      "Undo",
    );
    this.buttons = h("div", { class: "actions", hidden: true }, this.save, this.undo);
    const form = h(
      "form",
      { class: "scaling", onsubmit: (event) => this.submit(event) },
      ...this.fields.map(({ element }) => element),
      this.problem,
      this.buttons,
    );
    this.element = makeSection("Scaling", form);
  }

  show({ options, scaling, revision }) {
    this.element.hidden = !revision;
    if (!revision) return;
    for (const field of this.fields) {
      field.show(options[field.name], field.name in scaling, revision.manifest.options[field.name]);
    }
  }

  showButtons() {
    this.buttons.hidden = !this.fields.some(({ isEdited }) => isEdited);
  }

  forget() {
    for (const field of this.fields) field.forget();
    say(this.problem, "");
    this.showButtons();
  }

  async submit(event) {
    event.preventDefault();
    const edited = this.fields.filter(({ isEdited }) => isEdited);
    if (!edited.length) return;
    this.save.disabled = true;
    try {
      const changes = Object.fromEntries(edited.map(({ name, value }) => [name, value]));
      const app = await scale(this.app, changes);
      this.forget();
      this.show(app);
    } catch (error) {
      say(this.problem, error.message);
    } finally {
      this.save.disabled = false;
    }
  }
}

/** One option. Empty goes back to what the revision says. */
class Field {
  constructor(name, title, unit, onEdit) {
    const id = uniqueId("option");
    this.name = name;
    this.known = "";
    this.isText = name === "machine_type";
    this.input = h("input", {
      id,
      type: "text",
      inputMode: this.isText ? "text" : "decimal",
      autocomplete: "off",
      spellcheck: false,
      "aria-describedby": `${id}-note`,
      oninput: () => onEdit(),
    });
    this.note = h("span", { class: "help", id: `${id}-note` });
    this.reset = h(
      "button",
      {
        type: "button",
        class: "quiet words",
        title: "Back to what the revision says",
        "aria-label": `Back to what the revision says: ${name}`,
        onclick: () => ((this.input.value = ""), onEdit()),
      },
      "Reset",
    );
    this.element = h(
      "div",
      { class: "option" },
      h("label", { for: id, title: name }, title),
      h("span", { class: "entry" }, this.input, h("span", { class: "unit" }, unit)),
      this.reset,
      this.note,
    );
  }

  get isEdited() {
    return this.input.value.trim() !== this.known;
  }

  /** What is to be sent: null for nothing, a number where it is one. */
  get value() {
    const text = this.input.value.trim();
    if (text === "") return null;
    if (this.isText) return text.includes(",") ? text.split(/\s*,\s*/) : text;
    const number = Number(text);
    return Number.isNaN(number) ? text : number;
  }

  show(value, isSet, inRevision) {
    const text = value === null || value === undefined ? "" : [value].flat().join(", ");
    if (!this.isEdited) this.input.value = text;
    this.known = text;
    this.reset.hidden = !isSet;
    this.input.placeholder = "none";
    this.element.classList.toggle("set", isSet);
    const said = inRevision === undefined || inRevision === null ? "its default" : inRevision;
    say(this.note, isSet ? `Set here; the revision says ${[said].flat().join(", ")}.` : "");
  }

  forget() {
    this.input.value = this.known;
  }
}
