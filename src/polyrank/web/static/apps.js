/** The page that lists the apps of this server. */

import { listApps } from "./api.js";
import { h, icon } from "./dom.js";
import { makeTools } from "./tools.js";

const list = document.getElementById("apps");
const tools = makeTools(document.getElementById("tools"), show);

async function show() {
  try {
    const apps = await listApps();
    list.replaceChildren(...apps.map(card));
    if (!apps.length) list.append(note("No app is deployed here yet."));
  } catch (error) {
    list.replaceChildren(note(error.message));
    if (error.status === 401 || error.status === 403) tools.askForKey();
  }
}

function card({ name, state, endpoints }) {
  const cut = name.lastIndexOf("/");
  const paths = endpoints.map(({ path }) => h("li", {}, path));
  return h("li", {},
    h("a", { class: "card", href: `/playground/${name}` },
      h("span", { class: "title" },
        h("span", { class: "owner" }, `${name.slice(0, cut)}/`), name.slice(cut + 1)),
      h("span", { class: state === "ready" || state === "failed" ? `state ${state}` : "state" }, state),
      h("ul", { class: "paths" }, ...paths),
      icon("arrow")));
}

function note(text) {
  return h("li", { class: "nothing" }, text);
}

show();
