/** The playground of one app: a form, a run, its output, and what ran before. */

import { ApiError, fetchInput, key, listApps, readSchema } from "./api.js";
import { h, icon } from "./dom.js";
import { Form } from "./form.js";
import { History, remembered, thumbOf } from "./history.js";
import { fromFragment, toFragment } from "./link.js";
import { findMedia } from "./media.js";
import { Output } from "./output.js";
import { Run } from "./run.js";
import { readEndpoints } from "./schema.js";
import { Session } from "./session.js";
import { Strip } from "./strip.js";
import { makeTools } from "./tools.js";

// How long a schema may take before the page says what the app is at.
const PATIENCE_MS = 500;

const at = (id) => document.getElementById(id);

class Playground {
  constructor(app) {
    this.app = app;
    this.run = null;
    this.forms = new Map(); // by path, so that a change of endpoint and back keeps the values
    this.output = new Output();
    this.history = new History(app);
    this.strip = new Strip(this.history, (run) => this.recall(run));
    this.tools = makeTools(at("tools"), () => this.open());
    this.listen();
  }

  /** Reads what the app offers, and shows it. */
  async open() {
    at("form").replaceChildren(h("p", { class: "nothing" }, "Reading the app's schema…"));
    const telling = setTimeout(() => this.tellState(), PATIENCE_MS);
    try {
      this.schema = await readSchema(this.app);
    } catch (error) {
      this.showFailure(error);
      return;
    } finally {
      clearTimeout(telling);
    }
    this.endpoints = readEndpoints(this.schema);
    this.forms.clear();
    at("endpoint").replaceChildren(
      ...this.endpoints.map(({ path, title }) =>
        h("option", { value: path }, `${path}  ·  ${title}`),
      ),
    );
    await this.strip.show();
    this.followAddress();
    const { dashboard } = await listApps().catch(() => ({}));
    this.tools.linkDashboard(dashboard && `${dashboard}/${this.app}`);
  }

  /** Why the app's schema is not there yet: the server answers when the app is ready. */
  async tellState() {
    const app = (await listApps()).apps.find(({ name }) => name === this.app);
    const place = at("form").querySelector(".nothing");
    if (app && app.state !== "ready" && !this.schema)
      place?.replaceChildren(`${this.app}: ${app.state}`);
  }

  showFailure(error) {
    if (error.status === 401 || error.status === 403) this.tools.askForKey();
    const again = h(
      "button",
      { type: "button", class: "plain", onclick: () => this.open() },
      "Try again",
    );
    at("form").replaceChildren(h("div", { class: "nothing" }, h("p", {}, error.message), again));
  }

  get endpoint() {
    return this.endpoints.find(({ path }) => path === at("endpoint").value);
  }

  /** Shows the run that the address names, or the first endpoint. */
  followAddress() {
    const linked = fromFragment(location.hash);
    const path = this.endpoints.find((each) => each.path === linked?.path)?.path;
    this.choose(path ?? this.endpoints[0]?.path);
    if (!linked || !path) return;
    this.fill(linked.input);
    if (linked.requestId) this.attach(linked);
  }

  choose(path) {
    const endpoint = this.endpoints.find((each) => each.path === path);
    if (!endpoint)
      return at("form").replaceChildren(
        h("p", { class: "nothing" }, "This app has no endpoint to call."),
      );
    at("endpoint").value = path;
    at("about").textContent = endpoint.help;
    at("about").hidden = !endpoint.help;
    if (!this.forms.has(path)) this.forms.set(path, new Form(endpoint.input));
    this.form = this.forms.get(path);
    this.form.isJson = document.querySelector("[name=mode]:checked").value === "json";
    at("form").replaceChildren(this.form.element);
    if (this.run?.isLive && this.run.endpoint !== endpoint) this.run.cancel();
    this.showButtons(this.run);
    this.showCode();
  }

  fill(input) {
    if (input === undefined) return; // that of a request that another page has sent
    this.form.value = input;
    this.showCode();
  }

  listen() {
    at("hint").append(h("kbd", {}, "Ctrl"), h("kbd", {}, "↵"));
    at("run").addEventListener("click", () => this.start());
    at("cancel").addEventListener("click", () => this.run?.cancel());
    at("finish").addEventListener("click", () => this.run?.end());
    at("reset").addEventListener("click", () => this.reset());
    at("endpoint").addEventListener("change", () => this.choose(at("endpoint").value));
    for (const each of document.querySelectorAll("[name=mode]")) {
      each.addEventListener("change", () => this.choose(this.endpoint.path));
    }
    at("form").addEventListener("input", () => this.onInput());
    addEventListener("keydown", (event) => this.onKey(event));
    addEventListener("paste", (event) => this.onPaste(event));
    addEventListener("hashchange", () => this.followAddress());
    // A file that misses its field would replace the page.
    for (const kind of ["dragover", "drop"])
      addEventListener(kind, (event) => event.preventDefault());
  }

  onKey(event) {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.start();
    } else if (event.key === "Escape" && this.run && !this.run.isOver) this.run.cancel();
  }

  onInput() {
    this.showCode();
    const isAsked = this.endpoint.kind === "realtime" && !this.run?.takesMany;
    if (this.run?.isLive && isAsked) this.run.send(this.form.value);
  }

  onPaste(event) {
    const [file] = event.clipboardData?.files ?? [];
    if (file && this.form?.takeFile(file)) event.preventDefault();
  }

  reset() {
    const { path } = this.endpoint;
    this.forms.delete(path);
    history.replaceState(null, "", location.pathname);
    this.choose(path);
    this.form.root?.focus();
  }

  async start() {
    const { endpoint, form } = this;
    if (this.run?.isLive) return this.run.send(form.value);
    if (!endpoint || at("run").disabled || (this.run && !this.run.isOver)) return;
    form.clearProblems();
    at("run").disabled = true;
    await form.settled;
    const isSocket = endpoint.kind === "realtime" || endpoint.kind === "websocket";
    const run = new (isSocket ? Session : Run)(this.app, endpoint, form.value);
    this.show(run);
    document.querySelector(".output").scrollIntoView({ block: "nearest", behavior: "smooth" });
    await run.start();
  }

  attach({ path, input, requestId }) {
    const endpoint = this.endpoints.find((each) => each.path === path);
    const run = new Run(this.app, endpoint, input);
    run.id = requestId;
    this.show(run);
    run.attach(requestId);
    if (input === undefined) this.fetchInput(run);
  }

  /** Fills in what a request was sent with by another page or program. */
  async fetchInput(run) {
    const input = await fetchInput(this.app, run.requestId).catch(() => undefined);
    if (input === undefined || run !== this.run) return;
    run.input = input;
    this.fill(input);
    this.keep(run);
  }

  /** Follows a run: the buttons, the output, the address and the history. */
  show(run) {
    this.run?.leave();
    this.run = run;
    this.output.watch(run);
    run.addEventListener("change", () => run === this.run && this.note(run));
    this.note(run);
  }

  note(run) {
    this.showButtons(run);
    if (run.isLive) this.form.showProblems(run.problems, { focus: false });
    if (run.requestId !== run.linkedId || run.linkedId === undefined) {
      run.linkedId = run.requestId;
      const { path } = run.endpoint;
      history.replaceState(
        null,
        "",
        toFragment({ path, input: run.input, requestId: run.requestId }),
      );
      this.keep(run);
    }
    if (run.isOver && !run.isKept) {
      run.isKept = true;
      this.finish(run);
    }
  }

  showButtons(run) {
    const isIdle = !run || run.isOver;
    const isLive = Boolean(run?.isLive);
    at("run").hidden = !isIdle && !isLive;
    at("run").disabled = !isIdle && !isLive;
    at("cancel").hidden = isIdle;
    at("finish").hidden = !isLive || !run.takesMany;
    const isSocket = ["realtime", "websocket"].includes(this.endpoint?.kind);
    const words = isLive ? ["Send", "Disconnect"] : [isSocket ? "Connect" : "Run", "Cancel"];
    at("run").replaceChildren(icon("play"), words[0]);
    at("cancel").replaceChildren(icon("stop"), words[1]);
  }

  async finish(run) {
    const { error } = run;
    if (error?.problems?.length) this.form.showProblems(error.problems);
    if (error?.status === 401 || error?.status === 403) this.tools.askForKey();
    const [picture] = [...findMedia(run.result ?? null)].filter(({ kind }) => kind === "image");
    run.thumb = picture ? await thumbOf(picture.url) : null;
    await this.keep(run);
  }

  async keep(run) {
    await this.history.keep(await remembered(run));
    await this.strip.show(this.run.id);
  }

  /** Brings a run of the past back: its values, and its end. */
  recall(past) {
    if (!this.endpoints.some(({ path }) => path === past.path)) return;
    this.choose(past.path);
    this.fill(past.input);
    const isOpen = !["completed", "failed", "cancelled"].includes(past.state);
    const isElsewhere = past.state === "completed" && past.result === undefined;
    if (past.requestId && (isOpen || isElsewhere)) return this.attach(past);
    const run = new Run(this.app, this.endpoint, past.input);
    const { id, requestId, seconds, result, logs, error } = past;
    // What was neither over nor kept on the server ended with its page.
    run.state = isOpen ? "cancelled" : past.state;
    run.error = error && new ApiError(error.status, error.detail, error.type);
    Object.assign(run, { id, requestId, seconds, result, logs, startedAt: past.at, isKept: true });
    this.show(run);
    if (run.error?.problems.length) this.form.showProblems(run.error.problems);
  }

  showCode() {
    if (!this.form) return;
    const { origin } = location;
    const call = { origin, app: this.app, endpoint: this.endpoint, input: this.form.value };
    this.output.showCode({ ...call, needsKey: key.value !== "" });
  }
}

const app = decodeURIComponent(location.pathname)
  .replace(/^\/playground\//, "")
  .replace(/\/$/, "");
const cut = app.lastIndexOf("/");
at("owner").textContent = app.slice(0, cut + 1);
at("name").textContent = app.slice(cut + 1);
document.title = `${app} · polyrank`;
new Playground(app).open();
