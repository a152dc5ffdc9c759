/** A run in the page's address: `#run=…` holds the endpoint, the input and the request's id. */

// Longer strings (files in data URIs) would make an address that nobody can pass on.
const MOST_LETTERS = 2000;

/** The address's fragment for a run. */
export function toFragment({ path, input, requestId }) {
  const json = JSON.stringify({ path, input: shortened(input), id: requestId ?? undefined });
  const bytes = new TextEncoder().encode(json);
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return `#run=${text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

/** The run that a fragment holds: `{ path, input, requestId }`, or null. */
export function fromFragment(fragment) {
  const [, text] = /^#run=([\w-]+)$/.exec(fragment) ?? [];
  if (!text) return null;
  try {
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
    const { path, input, id } = JSON.parse(new TextDecoder().decode(bytes));
    return typeof path === "string" ? { path, input, requestId: id ?? null } : null;
  } catch {
    return null;
  }
}

/** Whether a link to this input brings all of it. */
export function isWhole(input) {
  return JSON.stringify(shortened(input)) === JSON.stringify(input);
}

function shortened(value) {
  if (typeof value === "string")
    return value.startsWith("data:") && value.length > MOST_LETTERS ? undefined : value;
  if (Array.isArray(value)) return value.map(shortened).filter((each) => each !== undefined);
  if (!value || typeof value !== "object") return value;
  if (typeof value.url === "string" && shortened(value.url) === undefined) return undefined;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, shortened(each)]));
}
