/** The server's public HTTP API. */

import { readEvents } from "./sse.js";

const KEY = "polyrank.key";

/** An answer that is an error, or no answer at all (`status` 0). */
export class ApiError extends Error {
  constructor(status, detail, type = "") {
    super(typeof detail === "string" ? detail : summary(detail));
    this.status = status;
    this.detail = detail;
    this.type = type;
  }

  /** What is wrong with which field: `[{ loc, msg }]`, of a 422. */
  get problems() {
    return Array.isArray(this.detail) ? this.detail.filter((each) => Array.isArray(each?.loc)) : [];
  }

  /** The error that an answer is, from its body. */
  static async from(response) {
    const text = await response.text().catch(() => "");
    const type = response.headers.get("x-fal-error-type") ?? "";
    try {
      const body = JSON.parse(text);
      return new ApiError(response.status, body.detail ?? body, type || body.error_type);
    } catch {
      return new ApiError(response.status, text.slice(0, 500) || response.statusText, type);
    }
  }
}

function summary(detail) {
  if (!Array.isArray(detail)) return JSON.stringify(detail);
  const count = detail.length;
  return count === 1 ? "One field is not right" : `${count} fields are not right`;
}

/** The key for this server, kept until the tab is closed. */
export const key = {
  get value() {
    return sessionStorage.getItem(KEY) ?? "";
  },
  set value(text) {
    if (text) sessionStorage.setItem(KEY, text);
    else sessionStorage.removeItem(KEY);
  },
};

/** Sends a request. Raises ApiError for an answer above 399 and when nobody answers. */
export async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key.value) headers.set("authorization", `Key ${key.value}`);
  if (options.json !== undefined) headers.set("content-type", "application/json");
  const body = options.json === undefined ? options.body : JSON.stringify(options.json);
  let response;
  try {
    response = await fetch(path, { ...options, headers, body });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer. Is it running?", "unreachable");
  }
  if (!response.ok) throw await ApiError.from(response);
  return response;
}

/**
 * The apps of this server, and the path of the page that shows how they are doing, null where there
 * is none or it is not for this caller: `{ apps, dashboard }`.
 */
export async function listApps() {
  return (await send("/apps")).json();
}

/** What an app says about itself. */
export async function readSchema(app, signal) {
  return (await send(`/run/${app}/openapi.json`, { signal })).json();
}

/** Puts a request into the queue; the answer has its `request_id`. */
export async function submit(app, path, input, idempotencyKey) {
  const headers = { "idempotency-key": idempotencyKey };
  const url = `/queue/${app}${path === "/" ? "" : path}`;
  return (await send(url, { method: "POST", json: input, headers })).json();
}

/**
 * The statuses of a queued request, one for each change, until it is done: `{ id, data }`. Each has
 * the lines of the log that are new since the one with the id `after`.
 */
export function watchStatus(app, id, after, signal) {
  return watch(`/queue/${app}/requests/${id}/status/stream?logs=1`, after, signal);
}

/** The events that a streaming endpoint answers: `{ id, data }`, those behind `after`. */
export function watchEvents(app, id, after, signal) {
  return watch(`/queue/${app}/requests/${id}/events`, after, signal);
}

/** The server-sent events at an address, those behind `after`: `{ id, data }`. */
export async function* watch(url, after, signal) {
  const headers = { accept: "text/event-stream", "last-event-id": String(after) };
  const response = await send(url, { headers, signal });
  for await (const { id, data } of readEvents(response.body)) {
    yield { id: Number(id), data: parsed(data) };
  }
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    return data;
  }
}

/** What a queued request was sent with. */
export async function fetchInput(app, id) {
  return (await send(`/queue/${app}/requests/${id}/input`)).json();
}

/** The answer of a queued request, as a Response. */
export function fetchResult(app, id, signal) {
  return send(`/queue/${app}/requests/${id}`, { signal });
}

/** Cancels a queued request; false if it was over already. */
export async function cancel(app, id) {
  try {
    await send(`/queue/${app}/requests/${id}/cancel`, { method: "PUT" });
    return true;
  } catch (error) {
    if (error.status === 400 || error.status === 404) return false;
    throw error;
  }
}

/** A token that opens websockets of an app for a minute; null where no key is in use. */
export async function fetchToken(app) {
  if (!key.value) return null;
  const json = { allowed_apps: [app], token_expiration: 60 };
  return (await send("/tokens/", { method: "POST", json })).json();
}

/**
 * Puts a file where apps can read it, and returns its URL: in the server's file store, or, on a
 * server without one, in the URL itself.
 */
export async function upload(file, onProgress = () => {}) {
  const json = {
    content_type: file.type || "application/octet-stream",
    file_name: file.name || "file",
  };
  let place;
  try {
    const url = "/storage/upload/initiate?storage_type=fal-cdn-v3";
    place = await (await send(url, { method: "POST", json })).json();
  } catch (error) {
    if (error.status !== 404 && error.status !== 405) throw error;
    return toDataUri(file);
  }
  await put(place.upload_url, file, json.content_type, onProgress);
  return place.file_url;
}

// fetch does not tell how much of a body has been sent.
function put(url, file, contentType, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", url);
    request.setRequestHeader("content-type", contentType);
    request.upload.onprogress = (event) => onProgress(event.loaded / Math.max(1, event.total));
    request.onload = () => {
      if (request.status < 300) resolve();
      else reject(new ApiError(request.status, `The upload was refused (${request.status})`));
    };
    request.onerror = () => reject(new ApiError(0, "The upload broke off"));
    request.send(file);
  });
}

function toDataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () =>
      resolve(reader.result.replace(/^data:;/, "data:application/octet-stream;"));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
