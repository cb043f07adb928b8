/** The names of stems that are not in sight: those of chips, and of points of the map. */

import * as api from "./api.js";

/** By id. @type {Map<string, string>} */
const names = new Map();

/** @param {{id: string, name: string}} stem */
export const noteName = ({ id, name }) => names.set(id, name);

/**
 * @param {string} id
 * @param {() => void} come is called when the name has come
 * @returns {string} the id until then
 */
export function nameOfId(id, come) {
  if (!names.has(id)) {
    noteName({ id, name: id });
    api.stem(id).then(noteName).then(come).catch(() => {}); // a stem that is gone stays an id
  }
  return /** @type {string} */ (names.get(id));
}

/** @param {number} position in the library  @returns {Promise<string>} */
export async function nameOfPosition(position) {
  const [id] = await api.idsAt([position]);
  if (!names.has(id)) noteName(await api.stem(id));
  return /** @type {string} */ (names.get(id));
}
