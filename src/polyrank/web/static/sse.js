/** Server-sent events, read from the body of any answer. */

/**
 * The events of a stream of bytes, as `{ event, data, id }`.
 *
 * `EventSource` can neither post nor send a key; this reads what `fetch` receives.
 */
export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = emptyEvent();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      // A CR at the end may be the first half of a line's end.
      const text = rest + value;
      const lines = text.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (event.data.length) yield { ...event, data: event.data.join("\n") };
          event = emptyEvent();
        } else readField(event, line);
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function emptyEvent() {
  return { event: "message", data: [], id: null };
}

function readField(event, line) {
  const [, name, value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
  if (name === "data") event.data.push(value);
  else if (name === "event") event.event = value;
  else if (name === "id") event.id = value;
}
