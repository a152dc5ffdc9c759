/** The page that lists the apps of this server. */

import { listApps, readSchema } from "./api.js";
import { h, icon } from "./dom.js";
import { makeTools } from "./tools.js";

const list = document.getElementById("apps");
const tools = makeTools(document.getElementById("tools"), show);

const waiting = new Set();

async function show() {
  try {
    const { apps, dashboard } = await listApps();
    list.replaceChildren(...apps.map((app) => h("li", {}, card(app), gauge(app, dashboard))));
    tools.linkDashboard(dashboard);
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
  await show();
}

function card({ name, state, endpoints }) {
  const cut = name.lastIndexOf("/");
  const paths = endpoints.map(({ path }) => h("li", {}, path));
  return h(
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
  );
}

/** The way to how an app is doing, where there is one. */
function gauge({ name }, dashboard) {
  if (!dashboard) return null;
  const title = `Dashboard of ${name}`;
  const href = `${dashboard}/${name}`;
  return h("a", { class: "quiet", href, title, "aria-label": title }, icon("gauge"));
}

function note(text) {
  return h("li", { class: "nothing" }, text);
}

// Whoever comes back to the page sees how it is now.
addEventListener("focus", show);
show();
