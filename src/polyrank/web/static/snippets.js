/** The same call in other languages, for this server and these values. */

// In what is shown, files in data URIs are cut to this; what is copied has them whole.
const SHOWN_LETTERS = 120;

/** The languages, by name; each makes `(call) => code`. A call is `{ origin, app, endpoint, input, needsKey }`. */
export const LANGUAGES = { Python: python, JavaScript: javaScript, curl };

/** Code with the files in data URIs cut, for reading. */
export function shown(code) {
  return code.replace(/data:[\w.+-]+\/[\w.+-]+;base64,[A-Za-z0-9+/=]+/g, (uri) =>
    uri.length > SHOWN_LETTERS ? `${uri.slice(0, SHOWN_LETTERS)}…` : uri,
  );
}

function curl({ origin, app, endpoint, input, needsKey }) {
  const url = `${origin}/run/${app}${endpoint.path === "/" ? "" : endpoint.path}`;
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
  const name = JSON.stringify(app + (endpoint.path === "/" ? "" : endpoint.path));
  const body = input === undefined ? "{}" : pythonLiteral(input);
  const made = needsKey ? `, key=os.environ["POLYRANK_KEY"]` : "";
  const isStream = endpoint.kind === "stream";
  const call = isStream
    ? [`for event in client.stream(${name}, ${body}, path=""):`, "    print(event)"]
    : [`result = client.subscribe(${name}, ${body})`, "print(result)"];
  return [
    ...(needsKey ? ["import os", ""] : []),
    "from polyrank.client import SyncClient",
    "",
    `client = SyncClient(${JSON.stringify(origin)}${made})`,
    ...call,
  ].join("\n");
}

function pythonLiteral(value, indent = "") {
  const deeper = `${indent}    `;
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) {
    if (!value.some((each) => each && typeof each === "object")) {
      return `[${value.map((each) => pythonLiteral(each)).join(", ")}]`;
    }
    return `[\n${value.map((each) => `${deeper}${pythonLiteral(each, deeper)},\n`).join("")}${indent}]`;
  }
  if (typeof value !== "object") return JSON.stringify(value);
  const entries = Object.entries(value);
  if (!entries.length) return "{}";
  const rows = entries.map(([name, each]) => `${deeper}${JSON.stringify(name)}: ${pythonLiteral(each, deeper)},\n`);
  return `{\n${rows.join("")}${indent}}`;
}

function javaScript({ origin, app, endpoint, input, needsKey }) {
  const name = JSON.stringify(app + (endpoint.path === "/" ? "" : endpoint.path));
  const body = input === undefined ? "" : `, {\n  input: ${JSON.stringify(input, null, 2).replaceAll("\n", "\n  ")},\n}`;
  const key = needsKey ? "process.env.POLYRANK_KEY" : `"none"`;
  const call = endpoint.kind === "stream"
    ? [`const stream = await fal.stream(${name}${body});`, "for await (const event of stream) console.log(event);"]
    : [`const { data } = await fal.subscribe(${name}${body});`, "console.log(data);"];
  return [
    `import { createFalClient } from "@fal-ai/client";`,
    "",
    "const fal = createFalClient({",
    `  credentials: ${key},`,
    `  proxyUrl: { url: ${JSON.stringify(`${origin}/proxy`)}, when: "always" },`,
    "});",
    ...call,
  ].join("\n");
}
