/**
 * Asks the server. One function per route; every error becomes a `ServerError` whose message a user can read.
 *
 * @typedef {{rank: number, cosine: number|null, id: string, name: string, folder: string, path: string,
 *   category: string|null, bpm: number|null, key: string|null, seconds: number, is_loop: boolean|null, tags: string[],
 *   rating: number|null, ok: boolean, quality: string[], corrected: string[], audio: "wav"|"original"|null}} Row
 * @typedef {{edges: number[], counts: number[], missing: number}} Bins
 * @typedef {{names: string[], counts: number[], missing: number}} Bars
 * @typedef {{bpm: Bins, seconds: Bins, category: Bars, key: Bars}} Histograms
 * @typedef {{result: string, rows: number, notes: string[], histograms: Histograms, state: string}} Result
 * @typedef {{rows: number, database: string, understands_texts: boolean, embedding_model: string,
 *   categories: {name: string, rows: number}[], keys: string[], quarantined: number, other_model_rows: number,
 *   state: string}} Library
 * @typedef {{state: "ready"|"computing"|"none", done: number, total: number, activity: string, rows: number,
 *   missing: number, error: string|null}} MapState
 */

export class ServerError extends Error {
  /** @param {number} status of HTTP; 0 if there was no answer  @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 * @throws {ServerError}  `AbortError` passes through
 */
async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ServerError(0, "The server does not answer. Is search_dataset_sql.py --serve still running?");
  }
  if (response.ok) return response;
  let text = `The server answered ${response.status}.`;
  try {
    text = (await response.json()).error || text;
  } catch { /* an answer without JSON says no more than its status */ }
  throw new ServerError(response.status, text);
}

/** @param {string} path  @param {AbortSignal} [signal] */
const get = async (path, signal) => (await answer(path, { signal })).json();

/** @param {string} method  @param {string} path  @param {unknown} body  @param {AbortSignal} [signal] */
const send = async (method, path, body, signal) =>
  (await answer(path, {
    method, signal, body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  })).json();

/** @param {string} path */
const bytes = async (path) => (await answer(path)).arrayBuffer();

/** @returns {Promise<Library>} */
export const library = () => get("/api/library");

/** @param {object} query  @param {AbortSignal} signal  @returns {Promise<Result>} */
export const search = (query, signal) => send("POST", "/api/search", query, signal);

/** @param {string} result  @param {number} from  @param {number} count  @returns {Promise<{rows: Row[]}>} */
export const rows = (result, from, count) =>
  get(`/api/rows?result=${encodeURIComponent(result)}&from=${from}&count=${count}`);

/** @param {string} id  @returns {Promise<Row>} */
export const stem = (id) => get(`/api/stem/${encodeURIComponent(id)}`);

/** @param {string} id  @returns {Promise<{peaks: [number, number][], seconds: number}>} */
export const waveform = (id) => get(`/api/waveform/${encodeURIComponent(id)}`);

let lastWrite = Promise.resolve();

/** Write after the writes before: a late answer would show an older state. @param {() => Promise<Row>} write */
function inTurn(write) {
  const written = lastWrite.then(write);
  lastWrite = written.then(() => {}, () => {});
  return written;
}

/** @param {string} id  @param {number|null} rating null removes it  @returns {Promise<Row>} */
export const rate = (id, rating) =>
  inTurn(() => send("PUT", `/api/stem/${encodeURIComponent(id)}/rating`, { rating }));

/** @param {string} id  @param {string} column  @param {unknown} value null removes it  @returns {Promise<Row>} */
export const correct = (id, column, value) =>
  inTurn(() => send("PUT", `/api/stem/${encodeURIComponent(id)}/correction`, { column, value }));

/** @param {number} from  @param {number} count */
export const quarantine = (from, count) => get(`/api/quarantine?from=${from}&count=${count}`);

/** @returns {Promise<MapState>} */
export const mapState = () => get("/api/map");

/** @returns {Promise<MapState>} */
export const startMap = () => send("POST", "/api/map", {});

/** x, y, x, y, … by position.  @returns {Promise<Float32Array>} */
export const mapPoints = async () => new Float32Array(await bytes("/api/map/points"));

/** Places in `Library.categories` by position; 255 for none.  @returns {Promise<Uint8Array>} */
export const mapCategories = async () => new Uint8Array(await bytes("/api/map/categories"));

/** The positions of a result, the first row's first.  @param {string} result  @returns {Promise<Uint32Array>} */
export const resultPositions = async (result) =>
  new Uint32Array(await bytes(`/api/result/positions?result=${encodeURIComponent(result)}`));

/** @param {number[]} positions  @returns {Promise<string[]>} */
export const idsAt = async (positions) => (await send("POST", "/api/ids", { positions })).ids;

/** @param {string} result  @param {"m3u"|"csv"} format */
export const exportUrl = (result, format) => `/api/export?result=${encodeURIComponent(result)}&format=${format}`;

/** @param {string} id  @param {boolean} original */
export const audioUrl = (id, original) => `/audio/${encodeURIComponent(id)}${original ? "?original=1" : ""}`;

/** Absolute, because it leaves the page.  @param {string} id */
export const fileUrl = (id) => new URL(`/file/${encodeURIComponent(id)}`, location.href).href;
