/** Elements, built and emptied. */

/**
 * Builds an element. A property whose name has a hyphen, and `role` and `for`, become attributes;
 * `on…` become listeners; null and false leave the property out.
 *
 * Example: `h("button", { type: "button", onclick: run }, "Run")`.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "list") {
      element.setAttribute(name, value === true ? "" : value);
    } else element[name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** An icon of icons.svg, hidden from assistive technology: what it stands for is said beside it. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `/static/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** A button with an icon and, unless `label` is shown elsewhere, a name for it. */
export function iconButton(name, label, onclick, properties = {}) {
  return h(
    "button",
    { type: "button", class: "quiet", title: label, "aria-label": label, onclick, ...properties },
    icon(name),
  );
}

let counted = 0;

/** An id that no other element of the page has. */
export function uniqueId(prefix = "id") {
  counted += 1;
  return `${prefix}-${counted}`;
}

/** Copies text, and says so on the button that was pressed. */
export async function copy(text, button) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else copyByHand(text);
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
}

/** Copies on pages that came over plain HTTP, which get no clipboard. */
function copyByHand(text) {
  const area = h("textarea", { value: text, class: "unseen" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Bytes in words: 1.4 MB. */
export function sizeInWords(bytes) {
  const units = ["B", "kB", "MB", "GB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** Seconds in words: 0.42 s, 12.3 s, 2 min 5 s. */
export function timeInWords(seconds) {
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
