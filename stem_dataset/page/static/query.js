/**
 * What is asked for, and how it stands in the address: everything after # names it, so back, reload and bookmarks work.
 *
 * @typedef {{text: string, like: string[], unlike: string[], categories: string[], bpm: string, half_double: boolean,
 *   key: string, related: boolean, kind: string, seconds: string, folders: string[], rating: string, ok: boolean,
 *   needs_listening: boolean, outline: string, sort: string, quarantine: boolean}} Query
 * `sort` is as in sort.js. `outline` is a selection on the map: "x,y x,y …". `quarantine` shows the quarantine in place
 * of the list. Empty values filter nothing.
 */

/**
 * The name of each part in the address, and its empty value.
 *
 * @type {[keyof Query, string, string|boolean|string[]][]}
 */
const PARTS = [
  ["text", "q", ""],
  ["like", "like", []],
  ["unlike", "unlike", []],
  ["categories", "category", []],
  ["bpm", "bpm", ""],
  ["half_double", "half-double", false],
  ["key", "key", ""],
  ["related", "related", false],
  ["kind", "kind", ""],
  ["seconds", "seconds", ""],
  ["folders", "folder", []],
  ["rating", "rating", ""],
  ["ok", "ok", false],
  ["needs_listening", "listen", false],
  ["outline", "map", ""],
  ["sort", "sort", ""],
  ["quarantine", "quarantine", false],
];

/** @returns {any} a Query: all its parts are in PARTS */
export const emptyQuery = () =>
  Object.fromEntries(PARTS.map(([part, , empty]) => [part, Array.isArray(empty) ? [] : empty]));

/** @param {string} hash as location.hash has it  @returns {Query} */
export function queryOf(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const query = emptyQuery();
  for (const [part, name, empty] of PARTS) {
    if (!given.has(name)) continue;
    if (Array.isArray(empty)) query[part] = given.getAll(name).filter(Boolean);
    else if (typeof empty === "boolean") query[part] = true;
    else query[part] = given.get(name);
  }
  return query;
}

/** @param {Query} query  @returns {string} with "#"; empty for an empty query */
export function hashOf(query) {
  const given = new URLSearchParams();
  for (const [part, name, empty] of PARTS) {
    /** @type {any} */ const value = query[part];
    if (Array.isArray(empty)) value.forEach((/** @type {string} */ one) => given.append(name, one));
    else if (typeof empty === "boolean") value && given.set(name, "1");
    else if (value) given.set(name, value);
  }
  const text = given.toString();
  return text ? `#${text}` : "";
}

/**
 * @param {Query} query
 * @param {number[]|null} positions the stems within the outline
 * @returns {object} the body of /api/search
 */
export function bodyOf(query, positions) {
  return {
    text: query.text.trim() || null,
    like: query.like,
    unlike: query.unlike,
    categories: query.categories,
    bpm: query.bpm.trim() || null,
    half_double: query.half_double && Boolean(query.bpm.trim()),
    key: query.key || null,
    related: query.related && Boolean(query.key),
    kind: query.kind || null,
    seconds: query.seconds.trim() || null,
    folders: query.folders,
    rating: query.rating ? Number(query.rating) : null,
    ok: query.ok,
    needs_listening: query.needs_listening,
    sort: query.sort.replace("-", "") || "rank",
    reverse: query.sort.startsWith("-"),
    ...(positions ? { positions } : {}),
  };
}
