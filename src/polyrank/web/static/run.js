/** One call of an endpoint, from the press of a button to its result. */

import * as api from "./api.js";
import { ApiError } from "./api.js";
import { previewOf } from "./media.js";
import { readEvents } from "./sse.js";

const MOST_EVENTS = 500;
const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 10_000;

/**
 * Runs through the queue, or as a stream, and dispatches `change` whenever something is new.
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
    this.id = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    this.requestId = null;
    this.state = "sending";
    this.startedAt = Date.now();
    this.endedAt = null;
    this.seconds = null;
    this.position = null;
    this.reason = "";
    this.progress = null;
    this.preview = null;
    this.logs = [];
    this.events = [];
    this.result = undefined;
    this.error = null;
    this.stopper = new AbortController();
  }

  get isOver() {
    return ["completed", "failed", "cancelled"].includes(this.state);
  }

  /** Runs to the end; never raises. */
  async start() {
    await this.guard(() => (this.endpoint.kind === "stream" ? this.stream() : this.queue()));
  }

  /** Follows a request that was queued before. */
  async attach(requestId) {
    this.requestId = requestId;
    this.state = "queued";
    await this.guard(() => this.follow());
  }

  /** Ends the work on the server too. */
  async cancel() {
    if (this.isOver) return;
    if (!this.requestId) {
      this.stopper.abort(); // the server takes a caller who has gone for a cancel
      return;
    }
    this.reason = "cancelling";
    this.change();
    try {
      await api.cancel(this.app, this.requestId);
    } catch (error) {
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
      if (this.isLeft) return;
      if (error.name === "AbortError") this.finish("cancelled");
      else this.fail(error instanceof ApiError ? error : new ApiError(0, error.message));
    }
  }

  async queue() {
    this.change();
    const submitted = await this.retrying(() =>
      api.submit(this.app, this.endpoint.path, this.input, this.id),
    );
    this.requestId = submitted.request_id;
    this.state = "queued";
    this.position = submitted.queue_position;
    this.change();
    if (this.stopper.signal.aborted) await api.cancel(this.app, this.requestId);
    await this.follow();
  }

  /** Watches the request's status, again after a broken connection, then fetches its result. */
  async follow() {
    const { signal } = this.stopper;
    const status = await this.retrying(async () => {
      for await (const each of api.watchStatus(this.app, this.requestId, signal)) {
        this.note(each);
        if (each.status === "COMPLETED") return each;
      }
      throw new ApiError(0, "The connection ended before the request did", "unreachable");
    });
    this.seconds = status.metrics?.inference_time ?? null;
    if (status.error_type === "client_cancelled") return this.finish("cancelled");
    const answer = await this.retrying(() => api.fetchResult(this.app, this.requestId, signal));
    if (isStream(answer)) return this.readStream(answer);
    this.result = await readBody(answer);
    return this.finish("completed");
  }

  async stream() {
    this.change();
    const answer = await api.call(this.app, this.endpoint.path, this.input, this.stopper.signal);
    if (isStream(answer)) return this.readStream(answer);
    this.result = await readBody(answer);
    return this.finish("completed");
  }

  async readStream(answer) {
    this.state = "running";
    this.change();
    for await (const { event, data } of readEvents(answer.body)) {
      if (data === "[DONE]") break;
      const value = parsed(data);
      if (event === "error" || value?.error_type) {
        throw new ApiError(502, value?.detail ?? value?.error ?? data, value?.error_type ?? "");
      }
      this.noteEvent(value);
    }
    if (this.result === undefined) throw new ApiError(502, "The stream ended without an event");
    this.finish("completed");
  }

  noteEvent(value) {
    this.state = "running";
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
    this.progress = progressOf(status) ?? this.progress;
    if (Array.isArray(status.logs)) this.logs = merged(this.logs, status.logs);
    if (status.status === "IN_QUEUE") this.state = "queued";
    if (status.status === "IN_PROGRESS") this.state = "running";
    this.change();
  }

  /** Tries again, with growing pauses, while nobody answers: the server may be starting anew. */
  async retrying(work) {
    const before = this.state;
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      try {
        return await work();
      } catch (error) {
        const isTransient = error.status === 0 || error.status === 429 || error instanceof TypeError;
        if (!isTransient || this.stopper.signal.aborted) throw error;
        if (before === "sending" && error.status === 0) throw error;
        this.state = error.status === 429 ? this.state : "lost";
        this.reason = error.status === 429 ? "the queue is full" : "";
        this.change();
        await rested(pause, this.stopper.signal);
      }
    }
  }

  fail(error) {
    this.error = error;
    this.finish(error.status === 499 ? "cancelled" : "failed");
  }

  finish(state) {
    this.state = state;
    this.endedAt = Date.now();
    this.seconds ??= (this.endedAt - this.startedAt) / 1000;
    this.change();
  }

  change() {
    this.dispatchEvent(new Event("change"));
  }
}

function isStream(answer) {
  return (answer.headers.get("content-type") ?? "").startsWith("text/event-stream");
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

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    return data;
  }
}

/** How much of the work an event says is done, from 0 to 1. */
export function progressOf(event) {
  const { progress, step, total_steps: total, num_inference_steps: steps } = event ?? {};
  if (typeof progress === "number") return Math.min(1, progress > 1 ? progress / 100 : progress);
  const all = total ?? steps;
  return typeof step === "number" && all > 0 ? Math.min(1, step / all) : null;
}

/** Logs with those that are new: a status brings all so far, or only what came since. */
function merged(before, logs) {
  const seen = new Set(before.map((each) => JSON.stringify(each)));
  return [...before, ...logs.filter((each) => !seen.has(JSON.stringify(each)))];
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
