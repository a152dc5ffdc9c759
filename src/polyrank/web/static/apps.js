/** The page that lists the apps of this server. */

import { listApps, readSchema } from "./api.js";
import { h, icon } from "./dom.js";
import { makeTools } from "./tools.js";

const list = document.getElementById("apps");
const tools = makeTools(document.getElementById("tools"), show);

const waiting = new Set();

async function show() {
  try {
    const apps = await listApps();
    list.replaceChildren(...apps.map(card));
    if (!apps.length) list.append(note("No app is deployed here yet."));
    for (const app of apps) if (app.state !== "ready" && app.state !== "failed") showWhenReady(app);
  } catch (error) {
    list.replaceChildren(note(error.message));
    if (error.status === 401 || error.status === 403) tools.askForKey();
  }
}

/** The server answers with an app's schema as soon as the app is ready. */
async function showWhenReady({ name }) {
  if (waiting.has(name)) return;
  waiting.add(name);
  await readSchema(name).catch(() => {});
  waiting.delete(name);
  await // Whoever comes back to the page sees how it is now.
  addEventListener("focus", show);
  show();
}

function card({ name, state, endpoints }) {
  const cut = name.lastIndexOf("/");
  const paths = endpoints.map(({ path }) => h("li", {}, path));
  return h(
    "li",
    {},
    h(
      "a",
      { class: "card", href: `/playground/${name}` },
      h(
        "span",
        { class: "title" },
        h("span", { class: "owner" }, `${name.slice(0, cut)}/`),
        name.slice(cut + 1),
      ),
      h(
        "span",
        { class: state === "ready" || state === "failed" ? `state ${state}` : "state" },
        state,
      ),
      h("ul", { class: "paths" }, ...paths),
      icon("arrow"),
    ),
  );
}

function note(text) {
  return h("li", { class: "nothing" }, text);
}

// Whoever comes back to the page sees how it is now.
addEventListener("focus", show);
show();
