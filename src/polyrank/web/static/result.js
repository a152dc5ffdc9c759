/** Results: pictures first, then what else was said, and the whole as a tree. */

import { h, icon } from "./dom.js";
import { figure, findMedia, safeUrl } from "./media.js";
import { tree } from "./tree.js";

const MOST_FACTS = 12;

/** A result as a person wants to see it. */
export function showResult(value) {
  const media = [...findMedia(value)];
  const parts = [];
  if (media.length) {
    const figures = media.map((each) => figure(each, enlarge));
    parts.push(h("div", { class: `gallery of-${Math.min(media.length, 4)}` }, ...figures));
  }
  const rest = withoutMedia(value);
  const texts = textsOf(rest);
  parts.push(...texts.map(([name, text]) => textBlock(name, text)));
  const facts = Object.entries(rest ?? {}).filter(
    ([name]) => !texts.some(([each]) => each === name),
  );
  if (isPlain(rest) && facts.length && facts.length <= MOST_FACTS) parts.push(factList(facts));
  else if (!parts.length || (facts.length && typeof rest === "object"))
    parts.push(h("div", { class: "tree" }, tree(rest ?? value)));
  return h("div", { class: "result" }, ...parts);
}

/** An error: what happened, and what there is to know about it. */
export function showError(error) {
  const heading = error.status ? `${error.status} ${error.type ?? ""}`.trim() : "Not sent";
  const problems = (error.problems ?? []).map(({ loc, msg }) =>
    h(
      "li",
      {},
      h("code", {}, loc.filter((step) => step !== "body").join(".") || "body"),
      ` ${msg}`,
    ),
  );
  return h(
    "div",
    { class: "failure", role: "alert" },
    h("h2", {}, heading),
    h("p", {}, error.message),
    problems.length ? h("ul", {}, ...problems) : null,
  );
}

/** A preview of work that goes on; the same element is used again, so that nothing flickers. */
export class Preview {
  constructor() {
    this.image = h("img", { alt: "Preview", decoding: "sync" });
    this.element = h("div", { class: "preview", hidden: true }, this.image);
  }

  show(url) {
    this.element.hidden = !safeUrl(url);
    if (url && this.image.src !== url) this.image.src = url;
  }
}

function enlarge(url, label) {
  const close = h(
    "button",
    { type: "button", class: "quiet", "aria-label": "Close" },
    icon("cross"),
  );
  const dialog = h(
    "dialog",
    { class: "light", "aria-label": label },
    h("img", { src: url, alt: label }),
    close,
  );
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** A copy without the files, which are shown already; undefined where nothing is left. */
function withoutMedia(value, isTop = true) {
  if (value === null || typeof value !== "object") return isMedia(value) ? undefined : value;
  if (!isTop && isMedia(value)) return undefined;
  if (isTop && isMedia(value)) return undefined;
  if (Array.isArray(value)) {
    const rest = value
      .map((each) => withoutMedia(each, false))
      .filter((each) => each !== undefined);
    return rest.length || !value.length ? rest : undefined;
  }
  const entries = Object.entries(value).map(([name, each]) => [name, withoutMedia(each, false)]);
  const rest = entries.filter(([, each]) => each !== undefined);
  return rest.length || !entries.length ? Object.fromEntries(rest) : undefined;
}

function isMedia(value) {
  const [first] = findMedia(value);
  return first !== undefined && first.path.length === 0;
}

/** Text that deserves a place of its own: an answer that is a string, or has long ones. */
function textsOf(value) {
  if (typeof value === "string") return [["", value]];
  if (!value || typeof value !== "object" || Array.isArray(value)) return [];
  const strings = Object.entries(value).filter(([, each]) => typeof each === "string");
  return strings.filter(
    ([, text], _, all) => text.length > 60 || text.includes("\n") || all.length === 1,
  );
}

function textBlock(name, text) {
  return h("div", { class: "text" }, name ? h("h2", {}, name) : null, h("p", {}, text));
}

function isPlain(value) {
  const isSmall = (each) =>
    each === null ||
    typeof each !== "object" ||
    (Array.isArray(each) && each.every((one) => typeof one !== "object"));
  return (
    value &&
    typeof value === "object" &&
    !Array.isArray(value) &&
    Object.values(value).every(isSmall)
  );
}

function factList(facts) {
  const rows = facts.flatMap(([name, value]) => [
    h("dt", {}, name),
    h("dd", {}, Array.isArray(value) ? value.join(", ") : String(value)),
  ]);
  return h("dl", { class: "facts" }, ...rows);
}
