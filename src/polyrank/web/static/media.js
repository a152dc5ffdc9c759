/** Pictures, sounds, films and files inside results: found by their shape, shown safely. */

import { h, icon, sizeInWords } from "./dom.js";

const EXTENSIONS = {
  image: /\.(png|jpe?g|webp|gif|avif|bmp|svg)$/i,
  video: /\.(mp4|webm|mov|m4v|ogv)$/i,
  audio: /\.(wav|mp3|ogg|flac|m4a|aac|opus)$/i,
};
const FILE_KEYS = ["content_type", "file_name", "file_size"];

/** The URL, if a page may load it; null for `javascript:` and whatever else a result may hold. */
export function safeUrl(url) {
  if (typeof url !== "string" || url === "") return null;
  try {
    const { protocol } = new URL(url, location.href);
    return ["http:", "https:", "blob:", "data:"].includes(protocol) ? url : null;
  } catch {
    return null;
  }
}

/** What a URL leads to: image, video, audio, or null where nothing tells. */
export function kindOf(url, contentType = "") {
  const type = contentType || (/^data:([^;,]*)/i.exec(url)?.[1] ?? "");
  const [family] = type.split("/");
  if (family in EXTENSIONS) return family;
  if (type) return null;
  const path = url.split(/[?#]/)[0];
  return Object.keys(EXTENSIONS).find((kind) => EXTENSIONS[kind].test(path)) ?? null;
}

/** All files in a value: `{ kind, url, name, type, size, width, height, path }`. */
export function* findMedia(value, path = []) {
  if (typeof value === "string") {
    const isUrl = /^(https?:\/\/\S+|data:[\w.+-]+\/[\w.+-]+[;,])/i.test(value);
    const kind = isUrl && safeUrl(value) ? kindOf(value) : null;
    if (kind) yield { kind, url: value, path };
  } else if (Array.isArray(value)) {
    for (const [at, each] of value.entries()) yield* findMedia(each, [...path, at]);
  } else if (value && typeof value === "object") {
    if (isFile(value)) yield describe(value, path);
    else for (const [name, each] of Object.entries(value)) yield* findMedia(each, [...path, name]);
  }
}

function isFile(value) {
  if (!safeUrl(value.url)) return false;
  return FILE_KEYS.some((name) => name in value) || kindOf(value.url) !== null;
}

function describe(value, path) {
  const { url, content_type: type, file_name: name, file_size: size, width, height } = value;
  return { kind: kindOf(url, type ?? "") ?? "file", url, name, type, size, width, height, path };
}

/** The picture that an event of a stream shows the work by, as a URL. */
export function previewOf(event) {
  const first = event?.preview_image ?? event?.preview ?? event;
  for (const { kind, url } of findMedia(first)) if (kind === "image") return url;
  return null;
}

/** A file, shown as what it is, with its name and a way to keep it. */
export function figure(media, onEnlarge) {
  const { kind, url, name, size, width, height } = media;
  const facts = [
    width && height ? `${width} × ${height}` : null,
    size ? sizeInWords(size) : null,
  ].filter(Boolean);
  const label = name ?? media.path.join(".") ?? kind;
  const save = h(
    "a",
    {
      class: "quiet",
      href: url,
      download: name ?? kind,
      title: `Save ${label}`,
      "aria-label": `Save ${label}`,
      target: "_blank",
      rel: "noopener",
    },
    icon("save"),
  );
  const caption = h(
    "figcaption",
    {},
    h("span", { class: "name" }, label),
    h("span", { class: "facts" }, facts.join(" · ")),
    save,
  );
  return h("figure", { class: kind }, show(media, label, onEnlarge), caption);
}

function show({ kind, url }, label, onEnlarge) {
  if (kind === "image") {
    const picture = h("img", { src: url, alt: label, decoding: "async" });
    picture.addEventListener("error", () => picture.replaceWith(broken(url)), { once: true });
    return h(
      "button",
      {
        type: "button",
        class: "picture",
        title: "Enlarge",
        "aria-label": `Enlarge ${label}`,
        onclick: () => onEnlarge(url, label),
      },
      picture,
    );
  }
  if (kind === "video")
    return h("video", { src: url, controls: true, loop: true, playsInline: true });
  if (kind === "audio") return h("audio", { src: url, controls: true });
  return h("div", { class: "file-icon" }, icon("file"));
}

function broken(url) {
  return h(
    "span",
    { class: "broken" },
    icon("image"),
    `This picture cannot be loaded: ${url.slice(0, 120)}`,
  );
}
