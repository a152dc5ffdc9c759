/**
 * An app's OpenAPI document, read into endpoints and fields: what a form needs, and nothing else.
 *
 * A field is `{ kind, name, title, help, required, nullable, default, example, … }`; `kind` is
 * one of text, number, toggle, choice, constant, file, size, list, group, map, union, any.
 */

const FILE_KINDS = ["image", "video", "audio", "file"];
const FILE_URL = /(?:^|_)(image|video|audio|file|mask)s?_urls?$/;
const LONG_TEXT = /prompt|text|lyrics|script|message|description|caption|instruction|context/i;
// More steps than this are no slider: a pixel would stand for many of them.
const MAX_SLIDER_STEPS = 2000;
// The input of websockets that say nothing about theirs.
const MESSAGE = { kind: "text", name: "message", title: "Message", required: true, isLong: true };
const ANY_MESSAGE = {
  websocket: { kind: "group", name: "", title: "", fields: [MESSAGE] },
  realtime: { kind: "any", name: "", title: "Message", required: true },
};

/** The endpoints of an app, in its order. */
export function readEndpoints(document) {
  const paths = new Set([
    ...(document["x-fal-order-paths"] ?? []),
    ...Object.keys(document.paths ?? {}),
  ]);
  return [...paths]
    .filter((path) => document.paths[path] && !path.endsWith("/{token}/{name}"))
    .map((path) => readEndpoint(document, path));
}

function readEndpoint(document, path) {
  const item = document.paths[path];
  if (item["x-fal-protocol"]) return readWebSocket(document, path, item);
  const operation = item.post ?? item.get ?? {};
  const schema = operation.requestBody?.content?.["application/json"]?.schema;
  return {
    path,
    title: operation.summary ?? path,
    help: firstParagraph(operation.description),
    kind: kindOf(path, operation),
    input: schema ? readField(document, schema, { name: "", required: true }) : null,
  };
}

/** A realtime endpoint, whose messages have a schema, or a plain websocket, whose have none. */
function readWebSocket(document, path, item) {
  const {
    type,
    operationId = path,
    input,
    realtimeMode: mode,
    contentType,
  } = item["x-fal-protocol"];
  const isRealtime = type === "realtime" && Object.keys(input ?? {}).length > 0;
  const words = operationId.replaceAll("_", " ");
  return {
    path,
    title: words[0].toUpperCase() + words.slice(1),
    help: "",
    kind: type,
    mode,
    contentType,
    input: isRealtime
      ? readField(document, input, { name: "", required: true })
      : ANY_MESSAGE[type],
  };
}

function kindOf(path, operation) {
  const streams = operation.responses?.["200"]?.content?.["text/event-stream"];
  return streams || /(^|\/|-|_)stream(ing)?($|\/|-|_)/.test(path) ? "stream" : "call";
}

/** A field, from its JSON schema. `chain` are the definitions that lead here. */
export function readField(document, raw, { name, required }, chain = []) {
  const references = [...chain];
  const schema = resolve(document, raw, references);
  if (references.length > new Set(references).size) return common(schema, name, required, "any");
  const inner = (sub, field) => readField(document, sub, field, references);

  const variants = schema.anyOf ?? schema.oneOf;
  if (variants || Array.isArray(schema.type)) {
    return readVariants(document, schema, { name, required }, references);
  }
  const field = common(schema, name, required, "any");
  const file = fileKind(schema, name);
  if (file) return { ...field, kind: "file", accepts: file, isObject: schema.type === "object" };
  if ("const" in schema) return { ...field, kind: "constant", value: schema.const };
  if (schema.enum) return { ...field, kind: "choice", options: schema.enum };
  switch (schema.type) {
    case "string":
      return { ...field, kind: "text", isLong: isLong(schema, name), pattern: schema.pattern };
    case "integer":
    case "number":
      return { ...field, kind: "number", ...limits(schema) };
    case "boolean":
      return { ...field, kind: "toggle" };
    case "array": {
      const item = inner(schema.items ?? {}, { name: name.replace(/s$/, ""), required: true });
      const bounds = { least: schema.minItems ?? 0, most: schema.maxItems ?? Infinity };
      return { ...field, kind: "list", item, ...bounds };
    }
    case "object":
      return readObject(schema, field, inner);
    default:
      return schema.properties ? readObject(schema, field, inner) : field;
  }
}

function readObject(schema, field, inner) {
  const properties = schema.properties ?? {};
  if (!Object.keys(properties).length) {
    const values = typeof schema.additionalProperties === "object" && schema.additionalProperties;
    if (!values) return field;
    return { ...field, kind: "map", item: inner(values, { name: "", required: true }) };
  }
  const order = schema["x-fal-order-properties"] ?? Object.keys(properties);
  const fields = order
    .filter((name) => properties[name] && !properties[name].ui?.hidden)
    .map((name) => {
      const required = (schema.required ?? []).includes(name);
      return inner(properties[name], { name, required });
    });
  return { ...field, kind: "group", fields };
}

/** Something that may be one of several kinds; `null` as one of them only makes it optional. */
function readVariants(document, schema, { name, required }, chain) {
  const { anyOf, oneOf, type, ...outer } = schema;
  const listed = anyOf ?? oneOf ?? type.map((each) => ({ ...outer, type: each }));
  const isNull = (each) => each.type === "null" || each.const === null;
  const rest = listed.filter((each) => !isNull(each));
  const nullable = rest.length < listed.length;
  if (rest.length === 1) {
    const merged = { ...resolve(document, rest[0], []), ...outer };
    const only = anyOf || oneOf ? merged : rest[0];
    const next = rest[0].$ref ? [...chain, rest[0].$ref] : chain;
    return { ...readField(document, only, { name, required }, next), nullable };
  }
  const field = { ...common(schema, name, required, "union"), nullable };
  const variants = rest.map((each) => readField(document, each, { name, required: true }, chain));
  const size = variants.find((each) => isSize(each));
  const presets = variants.find((each) => each.kind === "choice");
  if (size && presets && variants.length === 2) {
    return { ...field, kind: "size", options: presets.options, size };
  }
  return { ...field, variants, tag: schema.discriminator?.propertyName ?? null };
}

function isSize(field) {
  const names = field.kind === "group" ? field.fields.map((each) => each.name) : [];
  return names.length === 2 && names.includes("width") && names.includes("height");
}

/** The schema behind references; those followed are added to `chain`. What stands beside wins. */
function resolve(document, schema, chain) {
  let found = schema === true || !schema ? {} : schema;
  while (found.$ref || found.allOf?.length === 1) {
    const { $ref, allOf, ...beside } = found;
    if ($ref && chain.includes($ref)) {
      chain.push($ref);
      return beside;
    }
    if ($ref) chain.push($ref);
    found = $ref ? { ...definition(document, $ref), ...beside } : { ...allOf[0], ...beside };
  }
  return found;
}

/** What a reference leads to. Its title names the model, not the field that is one. */
function definition(document, reference) {
  const { title, description, ...rest } = lookUp(document, reference);
  return { ...rest, model: title ?? "" };
}

function lookUp(document, reference) {
  const steps = reference.replace(/^#\//, "").split("/");
  const plain = (step) => step.replaceAll("~1", "/").replaceAll("~0", "~");
  return steps.reduce((node, step) => node?.[plain(step)], document) ?? {};
}

function common(schema, name, required, kind) {
  return {
    kind,
    name,
    required,
    nullable: false,
    title: title(schema, name),
    model: schema.model ?? "",
    help: name ? firstParagraph(schema.description) : "",
    default: schema.default,
    example: schema.examples?.[0],
  };
}

/** The schema's title; one that was only made from the name is written as a sentence. */
function title(schema, name) {
  const words = name.replaceAll("_", " ").trim();
  const given = schema.title;
  if (given && given.toLowerCase() !== words.toLowerCase()) return given;
  return words ? words[0].toUpperCase() + words.slice(1) : (given ?? "");
}

function firstParagraph(text) {
  return (text ?? "")
    .trim()
    .split(/\n\s*\n/)[0]
    .replace(/\s+/g, " ");
}

function fileKind(schema, name) {
  const asked = schema.ui?.field;
  const isText = schema.type === "string" && !schema.enum;
  if (FILE_KINDS.includes(asked) && (isText || schema.type === "object")) return asked;
  if (isText) {
    const [, word] = FILE_URL.exec(name) ?? [];
    return word === "mask" ? "image" : (word ?? null);
  }
  const { url, content_type: type } = schema.properties ?? {};
  if (!url || !type) return null;
  const named = (schema.model ?? schema.title ?? "").toLowerCase();
  return FILE_KINDS.find((kind) => named.includes(kind)) ?? "file";
}

function isLong(schema, name) {
  if (schema.ui?.field === "textarea" || LONG_TEXT.test(name)) return true;
  const sample = `${schema.default ?? ""}${schema.examples?.[0] ?? ""}`;
  return (schema.maxLength ?? 0) > 300 || sample.length > 80 || sample.includes("\n");
}

function limits(schema) {
  const isWhole = schema.type === "integer";
  const span =
    (schema.maximum ?? schema.exclusiveMaximum) - (schema.minimum ?? schema.exclusiveMinimum);
  const step = schema.multipleOf ?? (isWhole ? 1 : fineStep(span));
  const least = schema.minimum ?? above(schema.exclusiveMinimum, step);
  const most = schema.maximum ?? above(schema.exclusiveMaximum, -step);
  const isSlider = (most - least) / step <= MAX_SLIDER_STEPS;
  return { isWhole, least, most, step, isExact: schema.multipleOf !== undefined, isSlider };
}

function above(bound, step) {
  return bound === undefined ? undefined : Number((bound + step).toPrecision(12));
}

/** A step of a slider over `span`: a power of ten, with one hundred to one thousand of them. */
function fineStep(span) {
  return span > 0 && span < Infinity ? 10 ** Math.floor(Math.log10(span / 100) + 1e-9) : 0.1;
}
