// The npm client, pointed at our server in one of the two ways that it has for that; the rest of
// this file is what a program in a test needs.
import * as client from "@fal-ai/client";

export const address = process.env.SERVER;
export const argument = process.env.ARGUMENT;

const faces = { "fal.run": "/run", "queue.fal.run": "/queue" };

function toServer(url) {
  const { host, pathname, search } = new URL(url);
  return address + (faces[host] ?? "") + pathname + search;
}

const ways = {
  proxy: { proxyUrl: { url: `${address}/proxy`, when: "always" } },
  middleware: {
    requestMiddleware: async (request) => ({ ...request, url: toServer(request.url) }),
  },
};

export const { ApiError, ValidationError } = client;
export const fal = client.createFalClient({
  credentials: process.env.KEY,
  ...ways[process.env.WAY],
});

// Websockets have no such way: the address is rewritten where they are opened.
globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(toServer(url).replace(/^http/, "ws"), protocols);
    this.binaryType = "arraybuffer";
  }
};

export function say(value) {
  console.log(JSON.stringify(value));
}

/** What a promise is rejected with. */
export async function failure(promise) {
  try {
    return { result: await promise };
  } catch (error) {
    const { name, message, status, body, requestId } = error;
    return { name, message, status, body, hasId: Boolean(requestId) };
  }
}
