/**
 * What a row of the list looks like.
 *
 * @typedef {import("./api.js").Row} Row
 */

import { bpmText, colourOf, element, folderText, lengthText } from "./format.js";

const ISSUES = {
  truncated: "is cut off", too_short: "too short", silent: "silent", too_quiet: "too quiet", clipped: "clipped",
  dc_offset: "has a DC offset", dead_channel: "has a dead channel",
};

/** @returns {HTMLElement} an empty row */
export function newRow() {
  const cells = ["rank", "name", "folder", "category", "bpm", "key", "seconds", "kind", "rating"].map((name) =>
    element("span", { role: "gridcell", class: `c-${name}`, ...(isCorrectable(name) ? { "data-column": name } : {}) }));
  const row = element("div", { role: "row", class: "row", draggable: "true" }, ...cells);
  const [, name, folder, category] = cells;
  folder.append(element("bdi"));
  name.append(element("span", { class: "name" }), element("span", { class: "warning", hidden: "" }));
  category.append(element("i", { class: "dot", "aria-hidden": "true" }), element("span"));
  for (let stars = 1; stars <= 5; stars += 1) {
    cells[8].append(element("i", { class: "star", "data-stars": String(stars), "aria-hidden": "true" }, "★"));
  }
  cells[8].append(element("span", { class: "unseen" }));
  return row;
}

/** @param {string} name */
export const isCorrectable = (name) => ["bpm", "key", "category"].includes(name);

/** @param {HTMLElement} element  @param {Row|undefined} row undefined while it is fetched */
export function fillRow(element, row) {
  element.classList.toggle("coming", !row);
  if (!row || element.classList.contains("editing")) return;
  const cells = /** @type {HTMLElement[]} */ ([...element.children]);
  const [rank, name, folder, category, bpm, key, seconds, kind, rating] = cells;
  element.dataset.id = row.id;
  rank.textContent = String(row.rank);
  fillCosine(rank, row.cosine);
  fillName(name, row);
  /** @type {HTMLElement} */ (folder.firstElementChild).textContent = folderText(row.folder);
  folder.title = row.folder;
  fillCategory(category, row);
  bpm.textContent = bpmText(row.bpm);
  key.textContent = row.key ?? "";
  for (const cell of [category, bpm, key]) markCorrected(cell, row);
  seconds.textContent = lengthText(row.seconds);
  kind.textContent = row.is_loop === null ? "" : row.is_loop ? "loop" : "one-shot";
  fillRating(rating, row.rating);
}

/** @param {HTMLElement} cell  @param {number|null} cosine */
function fillCosine(cell, cosine) {
  cell.style.setProperty("--cosine", String(Math.max(0, Math.min(1, cosine ?? 0))));
  cell.title = cosine === null ? "" : `Cosine ${cosine.toFixed(3)}`;
}

/** @param {HTMLElement} cell  @param {Row} row */
function fillName(cell, row) {
  const [name, warning] = /** @type {HTMLElement[]} */ ([...cell.children]);
  name.textContent = row.name;
  name.title = row.path;
  const issues = issueText(row.quality);
  warning.hidden = row.ok;
  warning.textContent = row.ok ? "" : issues || "quality issues";
}

/** @param {string[]} issues */
export const issueText = (issues) =>
  issues.map((issue) => /** @type {Record<string, string>} */ (ISSUES)[issue] ?? issue).join(", ");

/** @param {HTMLElement} cell  @param {Row} row */
function fillCategory(cell, row) {
  const [dot, text] = /** @type {HTMLElement[]} */ ([...cell.children]);
  dot.style.backgroundColor = row.category ? colourOf(row.category) : "transparent";
  text.textContent = row.category ?? "";
}

/** @param {HTMLElement} cell  @param {Row} row */
function markCorrected(cell, row) {
  const corrected = row.corrected.includes(cell.dataset.column ?? "");
  cell.classList.toggle("corrected", corrected);
  cell.title = corrected ? "Corrected by you. Double-click to change or undo it." : "Double-click to correct";
}

/** @param {HTMLElement} cell  @param {number|null} rating */
function fillRating(cell, rating) {
  cell.classList.toggle("rated", rating !== null);
  cell.querySelectorAll("[data-stars]").forEach((star) => {
    star.classList.toggle("on", Number(/** @type {HTMLElement} */ (star).dataset.stars) <= (rating ?? 0));
  });
  const text = /** @type {HTMLElement} */ (cell.lastElementChild);
  text.textContent = rating === null ? "not rated" : `${rating} of 5`;
  cell.title = rating === null ? "Not rated: press 0 to 5" : `Rated ${rating} of 5`;
}
