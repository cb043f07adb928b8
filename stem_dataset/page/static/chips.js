/**
 * The active filters as chips, each with a button that removes it.
 *
 * @typedef {import("./query.js").Query} Query
 * @typedef {{label: string, value: string, change: Partial<Query>}} Chip `change` is the query without it
 */

import { element } from "./format.js";

const KINDS = { loops: "loops", one_shots: "one-shots" };

/**
 * @param {Query} query
 * @param {(id: string) => string} nameOf the name of a stem
 * @param {number|null} selected how many stems the selection on the map has
 * @returns {Chip[]}
 */
export function chipsOf(query, nameOf, selected) {
  /** @type {Chip[]} */ const chips = [];
  const add = (/** @type {string} */ label, /** @type {string} */ value, /** @type {Partial<Query>} */ change) =>
    chips.push({ label, value, change });
  const eachOf = (/** @type {"like"|"unlike"|"categories"|"folders"} */ part, /** @type {string} */ label,
    /** @type {(value: string) => string} */ shown = String) =>
    query[part].forEach((one) => add(label, shown(one), { [part]: query[part].filter((other) => other !== one) }));

  if (query.text) add("Words", query.text, { text: "" });
  eachOf("like", "Like", nameOf);
  eachOf("unlike", "Unlike", nameOf);
  eachOf("categories", "Category");
  if (query.bpm) add("BPM", query.bpm + (query.half_double ? ", half, double" : ""), { bpm: "", half_double: false });
  if (query.key) add("Key", query.key + (query.related ? " and related" : ""), { key: "", related: false });
  if (query.kind) add("Kind", /** @type {Record<string, string>} */ (KINDS)[query.kind] ?? query.kind, { kind: "" });
  if (query.seconds) add("Seconds", query.seconds, { seconds: "" });
  eachOf("folders", "Folder");
  if (query.rating) add("Rating", query.rating === "5" ? "5" : `${query.rating} or more`, { rating: "" });
  if (query.ok) add("Quality", "OK only", { ok: false });
  if (query.needs_listening) add("Needs", "a listen", { needs_listening: false });
  const within = selected === null ? "selection" : `${selected.toLocaleString("en")} selected`;
  if (query.outline) add("Map", within, { outline: "" });
  return chips;
}

/**
 * @param {HTMLElement} list
 * @param {Chip[]} chips
 * @param {(change: Partial<Query>) => void} remove
 * @param {() => void} removeAll
 */
export function showChips(list, chips, remove, removeAll) {
  const items = chips.map(({ label, value, change }) => {
    const text = element("bdi", { title: value }, value);
    const button = element("button", { type: "button", "aria-label": `Remove the filter ${label}: ${value}` }, "×");
    button.addEventListener("click", () => remove(change));
    const name = element("span", { class: "faint" }, label);
    return element("li", { class: "chip", "data-label": label }, name, text, button);
  });
  if (chips.length > 1) {
    const looks = { type: "button", class: "link", "aria-keyshortcuts": "x", title: "Remove all (x)" };
    const all = element("button", looks, "Clear all");
    all.addEventListener("click", removeAll);
    items.push(element("li", {}, all));
  }
  list.replaceChildren(...items);
}
