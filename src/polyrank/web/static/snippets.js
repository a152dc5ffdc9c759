/** The same call in other languages, for this server and these values. */

// In what is shown, files in data URIs are cut to this; what is copied has them whole.
const SHOWN_LETTERS = 120;

/**
 * The languages, by name. Each makes code of a call, `{ origin, app, endpoint, input, needsKey }`,
 * or null where it has no good way.
 */
export const LANGUAGES = { Python: python, JavaScript: javaScript, curl };

/** Code with the files in data URIs cut, for reading. */
export function shown(code) {
  return code.replace(/data:[\w.+-]+\/[\w.+-]+;base64,[A-Za-z0-9+/=]+/g, (uri) =>
    uri.length > SHOWN_LETTERS ? `${uri.slice(0, SHOWN_LETTERS)}…` : uri,
  );
}

function curl({ origin, app, endpoint, input, needsKey }) {
  if (isSocket(endpoint)) return null;
  const url = `${origin}/run/${idOf(app, endpoint)}`;
  const lines = [
    `curl ${endpoint.kind === "stream" ? "-N " : ""}-X POST ${quoted(url)}`,
    needsKey ? `-H "Authorization: Key $POLYRANK_KEY"` : null,
    input === undefined ? null : "-H 'Content-Type: application/json'",
    input === undefined ? null : `-d ${quoted(JSON.stringify(input, null, 2))}`,
  ];
  return lines.filter(Boolean).join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function python({ origin, app, endpoint, input, needsKey }) {
  const body = input === undefined ? "{}" : pythonLiteral(input);
  const key = needsKey ? `os.environ["POLYRANK_KEY"], ` : "";
  return [
    ...(needsKey ? ["import os", ""] : []),
    "from polyrank.client import SyncClient",
    "",
    `client = SyncClient(${key}server=${JSON.stringify(origin)})`,
    ...pythonCall(app, endpoint, body, input),
  ].join("\n");
}

function pythonCall(app, endpoint, body, input) {
  const [name, path] = [JSON.stringify(app), JSON.stringify(endpoint.path)];
  switch (endpoint.kind) {
    case "stream":
      return [`for event in client.stream(${name}, ${body}, path=${path}):`, "    print(event)"];
    case "realtime":
      return [
        `with client.realtime(${name}, path=${path}) as session:`,
        `    session.send(${body.replaceAll("\n", "\n    ")})`,
        "    print(session.recv())",
      ];
    case "websocket":
      return [
        `with client.ws_connect(${name}, path=${path}) as socket:`,
        `    socket.send(${JSON.stringify(input?.message ?? "")})`,
        "    print(socket.recv())",
      ];
    default:
      return [
        `result = client.subscribe(${JSON.stringify(idOf(app, endpoint))}, ${body})`,
        "print(result)",
      ];
  }
}

function pythonLiteral(value, indent = "") {
  const deeper = `${indent}    `;
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isList = Array.isArray(value);
  const [open, close] = isList ? "[]" : "{}";
  const rows = Object.entries(value).map(
    ([name, each]) =>
      `${deeper}${isList ? "" : `${JSON.stringify(name)}: `}${pythonLiteral(each, deeper)},\n`,
  );
  return rows.length ? `${open}\n${rows.join("")}${indent}${close}` : open + close;
}

function javaScript({ origin, app, endpoint, input, needsKey }) {
  if (isSocket(endpoint)) return socketScript(origin, app, endpoint, input, needsKey);
  const name = JSON.stringify(idOf(app, endpoint));
  const isStream = endpoint.kind === "stream";
  // The client puts /stream behind what does not end in it.
  if (isStream && !endpoint.path.endsWith("/stream"))
    return fetchScript(origin, app, endpoint, input, needsKey);
  const json = JSON.stringify(input, null, 2)?.replaceAll("\n", "\n  ");
  const options = input === undefined ? "" : `, {\n  input: ${json},\n}`;
  const call = isStream
    ? [
        `const stream = await fal.stream(${name}${options});`,
        "for await (const event of stream) console.log(event);",
      ]
    : [`const { data } = await fal.subscribe(${name}${options});`, "console.log(data);"];
  return [
    `import { createFalClient } from "@fal-ai/client";`,
    "",
    "const fal = createFalClient({",
    `  credentials: ${needsKey ? "process.env.POLYRANK_KEY" : `"none:needed"`},`,
    `  proxyUrl: { url: ${JSON.stringify(`${origin}/proxy`)}, when: "always" },`,
    "});",
    ...call,
  ].join("\n");
}

function fetchScript(origin, app, endpoint, input, needsKey) {
  const key = needsKey ? "\n    Authorization: `Key ${process.env.POLYRANK_KEY}`," : "";
  return [
    `const answer = await fetch(${JSON.stringify(`${origin}/run/${idOf(app, endpoint)}`)}, {`,
    `  method: "POST",`,
    `  headers: {\n    "Content-Type": "application/json",${key}\n  },`,
    `  body: JSON.stringify(${(JSON.stringify(input, null, 2) ?? "{}").replaceAll("\n", "\n  ")}),`,
    "});",
    "for await (const text of answer.body.pipeThrough(new TextDecoderStream())) console.log(text);",
  ].join("\n");
}

function socketScript(origin, app, endpoint, input, needsKey) {
  const url = `${origin.replace("http", "ws")}/run/${idOf(app, endpoint)}`;
  const isPlain = endpoint.kind === "websocket" || /json/.test(endpoint.contentType ?? "");
  const value = JSON.stringify(
    endpoint.kind === "websocket" ? (input?.message ?? "") : input,
    null,
    2,
  );
  const sent =
    endpoint.kind === "websocket" ? value : `${isPlain ? "JSON.stringify" : "encode"}(${value})`;
  const read = isPlain ? "data" : `typeof data === "string" ? data : decode(data)`;
  const token = [
    `const answer = await fetch(${JSON.stringify(`${origin}/tokens/`)}, {`,
    `  method: "POST",`,
    "  headers: { Authorization: `Key ${process.env.POLYRANK_KEY}` },",
    `  body: JSON.stringify({ allowed_apps: [${JSON.stringify(app)}] }),`,
    "});",
    "const token = await answer.json();",
  ];
  const address = needsKey ? `\`${url}?fal_jwt_token=\${token}\`` : JSON.stringify(url);
  return [
    ...(isPlain ? [] : [`import { decode, encode } from "@msgpack/msgpack";`, ""]),
    ...(needsKey ? token : []),
    `const socket = new WebSocket(${address});`,
    `socket.binaryType = "arraybuffer";`,
    `socket.onopen = () => socket.send(${sent});`,
    `socket.onmessage = ({ data }) => console.log(${read});`,
  ].join("\n");
}

function isSocket({ kind }) {
  return kind === "realtime" || kind === "websocket";
}

function idOf(app, { path }) {
  return app + (path === "/" ? "" : path);
}
