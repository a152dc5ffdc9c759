/** Moments, as what they are to somebody who reads the page now. */

import { h } from "../dom.js";

const UNITS = [
  ["d", 86400],
  ["h", 3600],
  ["min", 60],
  ["s", 1],
];

/** Elements that say how long ago something was, and go on saying it. */
export function ago(at = null) {
  return setAgo(h("time"), at);
}

/** The element tells of another moment, in seconds since 1970; null for none. */
export function setAgo(element, at) {
  if (at === null) {
    element.textContent = "";
    element.removeAttribute("title");
    return element;
  }
  const date = new Date(at * 1000);
  element.dateTime = date.toISOString();
  element.title = date.toLocaleString();
  tell(element);
  return element;
}

function tell(element) {
  const seconds = Math.max(0, (Date.now() - Date.parse(element.dateTime)) / 1000);
  const [unit, size] = UNITS.find(([, each]) => seconds >= each) ?? ["s", 1];
  const text = `${Math.floor(seconds / size)} ${unit}`;
  if (element.textContent !== text) element.textContent = text;
}

/** The time of day. */
export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString();
}

setInterval(() => {
  if (!document.hidden) for (const each of document.querySelectorAll("time[title]")) tell(each);
}, 1000);
