/** One call of an endpoint, from the press of a button to its result. */

import * as api from "./api.js";
import { ApiError } from "./api.js";
import { previewOf } from "./media.js";

const MOST_EVENTS = 500;
const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 10_000;

/**
 * Runs through the queue, streams too, and dispatches `change` whenever something is new.
 *
 * `state` is sending, queued, running, lost (the connection, not the request), completed, failed
 * or cancelled.
 */
export class Run extends EventTarget {
  constructor(app, endpoint, input) {
    super();
    this.app = app;
    this.endpoint = endpoint;
    this.input = input;
    this.id = uniqueName();
    this.requestId = null;
    this.state = "sending";
    this.startedAt = Date.now();
    this.seconds = null;
    this.position = null;
    this.reason = "";
    this.progress = null;
    this.preview = null;
    this.logs = [];
    this.events = [];
    this.result = undefined;
    this.error = null;
    this.broken = null; // the error that a stream ended with
    this.stopper = new AbortController();
    // How many lines of the log and how many events have been read.
    this.lines = 0;
    this.told = 0;
  }

  get isOver() {
    return ["completed", "failed", "cancelled"].includes(this.state);
  }

  /** Runs to the end; never raises. */
  async start() {
    await this.guard(async () => {
      this.change();
      const { app, endpoint, input, id } = this;
      const submitted = await this.retrying(() => api.submit(app, endpoint.path, input, id));
      this.requestId = submitted.request_id;
      this.note(submitted);
      if (this.isUnwanted) await api.cancel(app, this.requestId);
      await this.follow();
    });
  }

  /** Follows a request that was queued before. */
  async attach(requestId) {
    this.requestId = requestId;
    this.state = "queued";
    await this.guard(() => this.follow());
  }

  /** Has the work ended on the server. */
  async cancel() {
    if (this.isOver) return;
    this.isUnwanted = true;
    this.isCancelling = true;
    this.change();
    if (!this.requestId) return;
    try {
      await api.cancel(this.app, this.requestId);
    } catch (error) {
      this.isCancelling = false;
      this.reason = `not cancelled: ${error.message}`;
      this.change();
    }
  }

  /** Stops watching, and leaves the request alone. */
  leave() {
    this.isLeft = true;
    this.stopper.abort();
  }

  async guard(work) {
    try {
      await work();
    } catch (error) {
      if (!this.isLeft)
        this.fail(error instanceof ApiError ? error : new ApiError(0, error.message));
    }
  }

  /** Watches the request to its end, across broken connections, then takes its result. */
  async follow() {
    const { app, requestId, stopper } = this;
    const isStream = this.endpoint.kind === "stream";
    const events = isStream ? this.retrying(() => this.watchEvents()) : null;
    events?.catch(() => {}); // awaited below, unless the request fails first
    const status = await this.retrying(() => this.watchStatus());
    this.seconds = status.metrics?.inference_time ?? null;
    await events;
    if (status.error || this.result === undefined) {
      const answer = await this.retrying(() => api.fetchResult(app, requestId, stopper.signal));
      this.result = await readBody(answer);
    }
    if (this.broken) throw this.broken;
    this.finish("completed");
  }

  async watchStatus() {
    const { app, requestId, stopper } = this;
    for await (const { id, data } of api.watchStatus(app, requestId, this.lines, stopper.signal)) {
      this.lines = id;
      this.note(data);
      if (data.status === "COMPLETED") return data;
    }
    throw new ApiError(0, "The connection ended before the request did", "unreachable");
  }

  async watchEvents() {
    const { app, requestId, stopper } = this;
    for await (const { id, data } of api.watchEvents(app, requestId, this.told, stopper.signal)) {
      this.told = id;
      if (data === "[DONE]") continue;
      if (data?.error_type)
        this.broken = new ApiError(500, data.detail ?? data.error, data.error_type);
      else this.noteEvent(data);
    }
  }

  noteEvent(value) {
    this.events.push(value);
    if (this.events.length > MOST_EVENTS) this.events.shift();
    this.progress = progressOf(value) ?? this.progress;
    this.preview = previewOf(value) ?? this.preview;
    this.result = value;
    this.change();
  }

  note(status) {
    this.position = status.queue_position ?? null;
    this.reason = status.reason ?? "";
    this.logs.push(...(status.logs ?? []));
    if (status.status === "IN_QUEUE") this.state = "queued";
    if (status.status === "IN_PROGRESS") this.state = "running";
    this.change();
  }

  /** Tries again, with growing pauses, while nobody answers: the server may be starting anew. */
  async retrying(work) {
    const isFirst = this.state === "sending";
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      try {
        return await work();
      } catch (error) {
        const isLost = error.status === 0 || error.status === 503 || error instanceof TypeError;
        const isFull = error.status === 429;
        if (this.isLeft || (this.isUnwanted && isFirst) || !(isFull || (isLost && !isFirst)))
          throw error;
        if (isLost) this.state = "lost";
        this.reason = isFull ? "the queue is full" : "";
        this.change();
        await rested(pause, this.stopper.signal);
      }
    }
  }

  fail(error) {
    this.error = error;
    this.finish(
      error.status === 499 || (this.isUnwanted && !this.requestId) ? "cancelled" : "failed",
    );
  }

  finish(state) {
    this.state = state;
    this.seconds ??= (Date.now() - this.startedAt) / 1000;
    this.change();
  }

  change() {
    this.dispatchEvent(new Event("change"));
  }
}

/** An answer's body: JSON, text, or a file with a URL of its own. */
async function readBody(answer) {
  const type = answer.headers.get("content-type") ?? "";
  if (/[/+]json\b/.test(type)) return answer.json();
  if (type.startsWith("text/")) return answer.text();
  const blob = await answer.blob();
  if (!blob.size) return null;
  return { url: URL.createObjectURL(blob), content_type: type, file_size: blob.size };
}

/** A name for a run. `crypto.randomUUID` is not there on pages that came over plain HTTP. */
export function uniqueName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** How much of the work an event says is done, from 0 to 1. */
export function progressOf(event) {
  const { progress, step, total_steps: total, num_inference_steps: steps } = event ?? {};
  if (typeof progress === "number") return Math.min(1, progress > 1 ? progress / 100 : progress);
  const all = total ?? steps;
  return typeof step === "number" && all > 0 ? Math.min(1, step / all) : null;
}

function rested(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    });
  });
}
