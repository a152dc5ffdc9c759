/** The history as a strip of small pictures. */

import { h } from "./dom.js";

const DAY_MS = 24 * 3600 * 1000;

export class Strip {
  constructor(history, onChoose) {
    this.history = history;
    this.onChoose = onChoose;
    this.section = document.getElementById("past");
    this.list = document.getElementById("strip");
    document.getElementById("forget").addEventListener("click", () => this.forget());
  }

  async show(chosen = null) {
    const runs = await this.history.list();
    this.section.hidden = !runs.length;
    this.list.replaceChildren(...runs.map((run) => this.item(run, run.id === chosen)));
  }

  item(run, isChosen) {
    const label = `${run.state}, ${moment(run.at)}${run.path === "/" ? "" : `, ${run.path}`}`;
    const picture = run.thumb
      ? h("img", { src: run.thumb, alt: "" })
      : h("span", { class: "gist" }, gist(run));
    return h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: `past-run ${run.state}`,
          "aria-current": isChosen ? "true" : null,
          title: label,
          onclick: () => this.onChoose(run),
        },
        picture,
        h("span", { class: "caption" }, h("span", { class: "dot" }), moment(run.at)),
        h("span", { class: "unseen" }, label),
      ),
    );
  }

  async forget() {
    await this.history.clear();
    await this.show();
  }
}

/** The few words that tell a run from others. */
function gist({ input, result, path }) {
  const isProse = (each) => typeof each === "string" && /\S\s\S/.test(each);
  const prose = [result, ...Object.values(input ?? {})].find(isProse);
  return (prose ?? `${path} ${brief(input)}`).slice(0, 60);
}

/** An input's values, without names and files. */
function brief(input) {
  const isShort = (each) => ["string", "number"].includes(typeof each) && !/^data:/.test(each);
  return Object.values(input ?? {})
    .filter(isShort)
    .join(", ");
}

function moment(at) {
  const time = new Date(at);
  const isToday = Date.now() - at < DAY_MS && time.getDate() === new Date().getDate();
  const clock = time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return isToday
    ? clock
    : `${time.toLocaleDateString([], { month: "short", day: "numeric" })}, ${clock}`;
}
