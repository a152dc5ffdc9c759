/** Files and pictures: chosen, dropped, pasted, or named by their URL. */

import { upload } from "../api.js";
import { h, icon, iconButton, sizeInWords } from "../dom.js";
import { safeUrl } from "../media.js";
import { Control } from "./control.js";

const ACCEPT = { image: "image/*", video: "video/*", audio: "audio/*", file: "" };
const ICONS = { image: "image", video: "film", audio: "sound", file: "file" };

/** A file's URL, as a string or as an object with a `url`. */
export class FileControl extends Control {
  constructor(field) {
    super(field);
    this.url = "";
    this.known = {};
    this.pending = Promise.resolve();
    this.picker = h("input", { type: "file", accept: ACCEPT[field.accepts], hidden: true });
    this.picker.addEventListener("change", () => this.take(this.picker.files[0]));
    this.shown = h("span", { class: "thumb" });
    this.text = h("span", { class: "what" });
    this.remover = iconButton("cross", `Remove ${field.title}`, () => this.clear());
    this.zone = h(
      "button",
      { type: "button", class: "zone", ...this.described, onclick: () => this.picker.click() },
      this.shown,
      this.text,
    );
    const holder = h("div", { class: "drop" }, this.zone, this.remover, this.picker);
    this.layOut(this.zone, this.makeAddress());
    this.listen(holder);
    this.show();
  }

  get settled() {
    return this.pending;
  }

  get value() {
    if (!this.url) return this.empty;
    return this.field.isObject ? { ...this.known, url: this.url } : this.url;
  }

  set value(value) {
    const isObject = typeof value === "object" && value !== null;
    this.known = isObject ? value : {};
    this.url = (isObject ? value.url : value) ?? "";
    this.name = this.known.file_name ?? "";
    this.size = this.known.file_size ?? null;
    this.preview = this.url;
    this.show();
  }

  /** Whether this control would take the file. */
  takes(file) {
    const kind = this.field.accepts;
    return kind === "file" || file.type.startsWith(`${kind}/`) || file.type === "";
  }

  /** Takes a file: shows it at once, and uploads it. */
  take(file) {
    if (!file) return;
    this.clearProblems();
    if (!this.takes(file)) {
      this.showProblem(
        `${file.name || "This"} is ${file.type}; ${this.field.accepts} is asked for`,
      );
      return;
    }
    this.known = {};
    [this.name, this.size, this.preview] = [file.name, file.size, URL.createObjectURL(file)];
    this.pending = this.store(file);
    this.picker.value = "";
  }

  async store(file) {
    this.element.classList.add("uploading");
    this.show(file.type);
    const taken = this.preview;
    try {
      const url = await upload(file, (part) => this.zone.style.setProperty("--part", String(part)));
      if (this.preview === taken) this.url = url;
    } catch (error) {
      if (this.preview === taken) this.clear();
      this.showProblem(error.message);
    }
    this.element.classList.remove("uploading");
    this.announce();
  }

  clear() {
    this.value = undefined;
    this.announce();
    this.zone.focus();
  }

  show(type = "") {
    const { accepts } = this.field;
    const isPicture = accepts === "image" || type.startsWith("image/");
    const source = isPicture ? safeUrl(this.preview ?? "") : null;
    this.shown.replaceChildren(source ? h("img", { src: source, alt: "" }) : icon(ICONS[accepts]));
    const hasFile = Boolean(this.preview);
    this.remover.hidden = !hasFile;
    this.zone.classList.toggle("full", hasFile);
    const name = this.name || (this.url.startsWith("data:") ? `${accepts} in the URL` : this.url);
    const size = this.size === null || this.size === undefined ? "" : sizeInWords(this.size);
    const article = /^[aeiou]/.test(accepts) ? "an" : "a";
    const asking = [`Choose ${article} ${accepts}`, h("small", {}, "or drop or paste one here")];
    this.text.replaceChildren(...(hasFile ? [name || accepts, h("small", {}, size)] : asking));
  }

  makeAddress() {
    const ask = iconButton("link", "Give a URL instead", () => {
      address.hidden = !address.hidden;
      if (!address.hidden) address.focus();
    });
    const address = h("input", {
      type: "url",
      placeholder: "https://…",
      hidden: true,
      "aria-label": `${this.field.title}, URL`,
    });
    address.addEventListener("change", () => {
      this.value = address.value.trim() || undefined;
      this.announce();
    });
    return h("span", { class: "address" }, address, ask);
  }

  listen(holder) {
    const dragging = (on) => (event) => {
      event.preventDefault();
      holder.classList.toggle("over", on);
    };
    holder.addEventListener("dragover", dragging(true));
    holder.addEventListener("dragleave", dragging(false));
    holder.addEventListener("drop", (event) => {
      dragging(false)(event);
      this.take(event.dataTransfer.files[0]);
    });
    holder.addEventListener("paste", (event) => {
      const [file] = event.clipboardData.files;
      if (!file) return;
      event.preventDefault();
      event.stopPropagation();
      this.take(file);
    });
  }
}
