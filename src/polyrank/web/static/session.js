/** A realtime session: inputs go out as they change, outputs come in as they are made. */

import { fetchToken, ApiError } from "./api.js";
import { decode, encode } from "./msgpack.js";
import { previewOf } from "./media.js";
import { uniqueName } from "./run.js";

const MOST_EVENTS = 200;
// Changes that come faster are not all sent: the newest is.
const PAUSE_MS = 60;
const NORMAL = [1000, 1001, 1005];
// The first bytes of pictures: binary outputs have no content type.
const SIGNATURES = {
  "image/jpeg": [0xff, 0xd8, 0xff],
  "image/png": [0x89, 0x50, 0x4e, 0x47],
  "image/webp": [0x52, 0x49, 0x46, 0x46],
};

/**
 * A websocket to an endpoint, seen like a Run: it dispatches `change`, and `state` is connecting,
 * connected, completed or failed.
 */
export class Session extends EventTarget {
  constructor(app, endpoint, input) {
    super();
    this.app = app;
    this.endpoint = endpoint;
    this.input = input;
    this.id = uniqueName();
    this.requestId = null; // nothing is kept on the server
    this.state = "connecting";
    this.startedAt = Date.now();
    this.seconds = null;
    this.reason = "";
    this.progress = null;
    this.preview = null;
    this.logs = [];
    this.events = [];
    this.problems = [];
    this.received = 0;
    this.result = undefined;
    this.error = null;
    this.isPlain = endpoint.kind === "websocket";
    this.isJson = this.isPlain || /json/.test(endpoint.contentType ?? "");
  }

  get isOver() {
    return this.state === "completed" || this.state === "failed";
  }

  /** Whether inputs are taken now. */
  get isLive() {
    return this.state === "connected";
  }

  /** Whether the endpoint takes inputs until it is told that there are no more. */
  get takesMany() {
    return ["client_streaming", "bidi"].includes(this.endpoint.mode);
  }

  /** Opens the session with a first input; resolves when it is over. */
  async start() {
    this.change();
    try {
      await this.converse(await this.address());
      this.finish("completed");
    } catch (error) {
      this.error = error instanceof ApiError ? error : new ApiError(0, error.message);
      this.finish("failed");
    }
  }

  /** Sends an input; of many in a short time, the newest. */
  send(input) {
    this.waiting = { input };
    const pause = Math.max(0, (this.sentAt ?? 0) + PAUSE_MS - Date.now());
    this.timer ??= setTimeout(() => this.flush(), pause);
  }

  /** Says that there will be no more inputs. */
  end() {
    this.flush();
    this.socket.send(JSON.stringify({ type: "x-fal-message", action: "end" }));
  }

  /** Ends the session. */
  cancel() {
    this.socket?.close(1000);
  }

  leave() {
    this.cancel();
  }

  async address() {
    const url = new URL(`/run/${this.app}${this.endpoint.path}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const token = await fetchToken(this.app);
    if (token) url.searchParams.set("fal_jwt_token", token);
    return url;
  }

  converse(url) {
    return new Promise((resolve, reject) => {
      this.socket = new WebSocket(url);
      this.socket.binaryType = "arraybuffer";
      this.socket.onopen = () => {
        this.state = "connected";
        this.startedAt = Date.now();
        this.waiting ??= { input: this.input }; // unless it has changed while connecting
        this.flush();
        this.change();
      };
      this.socket.onmessage = ({ data }) => this.take(data);
      this.socket.onclose = ({ code, reason }) => {
        if (NORMAL.includes(code) && this.isLive) resolve();
        else reject(new ApiError(0, reason || `The connection was closed (${code})`, "websocket"));
      };
    });
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = null;
    if (!this.waiting || !this.isLive) return;
    const { input } = this.waiting;
    this.waiting = null;
    this.input = input;
    this.sentAt = Date.now();
    this.socket.send(this.packed(input));
  }

  packed(input) {
    if (this.isPlain) return input?.message ?? "";
    return this.isJson ? JSON.stringify(input) : encode(input);
  }

  take(data) {
    const message = this.unpacked(data);
    if (message?.type === "x-fal-message") return;
    if (message?.type === "x-fal-error") {
      this.problems = Array.isArray(message.detail) ? message.detail : [];
      this.logs.push({ message: message.reason ?? message.error, level: "ERROR" });
      this.reason = message.reason ?? message.error;
      this.change();
      return;
    }
    this.problems = [];
    this.received += 1;
    const seconds = Math.max(0.5, (Date.now() - this.startedAt) / 1000);
    this.reason = `${this.received} received, ${(this.received / seconds).toFixed(1)} a second`;
    this.note(message);
  }

  note(message) {
    const before = this.preview;
    const value = withPictures(message);
    this.events.push(value);
    if (this.events.length > MOST_EVENTS) this.events.shift();
    this.preview = previewOf(value) ?? this.preview;
    this.result = value;
    this.change();
    if (before?.startsWith("blob:") && before !== this.preview) URL.revokeObjectURL(before);
  }

  unpacked(data) {
    if (typeof data !== "string") return this.isPlain ? new Uint8Array(data) : decode(data);
    try {
      return JSON.parse(data);
    } catch {
      return data;
    }
  }

  finish(state) {
    clearTimeout(this.timer);
    this.state = state;
    this.seconds = (Date.now() - this.startedAt) / 1000;
    this.change();
  }

  change() {
    this.dispatchEvent(new Event("change"));
  }
}

/** A message with its binary values as files that a page can show. */
function withPictures(value) {
  if (value instanceof Uint8Array) {
    const isOf = (type) => SIGNATURES[type].every((byte, at) => value[at] === byte);
    const known = Object.keys(SIGNATURES).find(isOf);
    const type = known ?? "application/octet-stream";
    const url = URL.createObjectURL(new Blob([value], { type }));
    return { url, content_type: type, file_size: value.length };
  }
  if (Array.isArray(value)) return value.map(withPictures);
  if (!value || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, each]) => [name, withPictures(each)]),
  );
}
