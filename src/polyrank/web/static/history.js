/** Runs of this browser, kept across reloads in IndexedDB. */

const DATABASE = "polyrank";
const RUNS = "runs";
// Of each app, and of a single run's result: what is older or larger is not kept.
const MOST_RUNS = 60;
const MOST_LETTERS = 8_000_000;
const THUMB = 160;

/** The history of one app. Where the browser keeps nothing (a private window), it is empty. */
export class History {
  constructor(app) {
    this.app = app;
    this.opened = open().catch(() => null);
  }

  /** All runs, the newest first. */
  async list() {
    const runs = await this.ask("readonly", (store) => store.index("app").getAll(this.app));
    return (runs ?? []).sort((one, other) => other.at - one.at);
  }

  /** Keeps a run as it stands, and lets go of the oldest beyond the limit. */
  async keep(run) {
    await this.ask("readwrite", (store) => store.put(run));
    const surplus = (await this.list()).slice(MOST_RUNS);
    for (const { id } of surplus) await this.remove(id);
  }

  remove(id) {
    return this.ask("readwrite", (store) => store.delete(id));
  }

  async clear() {
    for (const { id } of await this.list()) await this.remove(id);
  }

  async ask(mode, work) {
    const database = await this.opened;
    if (!database) return undefined;
    return settled(work(database.transaction(RUNS, mode).objectStore(RUNS)));
  }
}

/** What is kept of a run. */
export async function remembered(run) {
  const json = JSON.stringify(run.result ?? null);
  const isKept = json.length <= MOST_LETTERS && !json.includes('"blob:'); // gone with the page
  return {
    id: run.id,
    app: run.app,
    path: run.endpoint.path,
    kind: run.endpoint.kind,
    at: run.startedAt,
    input: run.input,
    requestId: run.requestId,
    state: run.state,
    seconds: run.seconds,
    result: isKept ? run.result : undefined,
    error: run.error && {
      status: run.error.status,
      detail: run.error.detail,
      type: run.error.type,
    },
    logs: run.logs,
    thumb: run.thumb ?? null,
  };
}

/** A small copy of a picture, as a data URI; null if the picture is not ours to copy. */
export async function thumbOf(url) {
  try {
    const picture = new Image();
    picture.crossOrigin = "anonymous";
    picture.src = url;
    await picture.decode();
    const scale = Math.min(1, THUMB / Math.min(picture.naturalWidth, picture.naturalHeight));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(picture.naturalWidth * scale);
    canvas.height = Math.round(picture.naturalHeight * scale);
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", 0.8);
  } catch {
    return null;
  }
}

function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => {
    const store = request.result.createObjectStore(RUNS, { keyPath: "id" });
    store.createIndex("app", "app");
  };
  return settled(request);
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
