/**
 * What the bar below says of the stem that plays.
 *
 * @typedef {import("./api.js").Row} Row
 */

import { bpmText, byId, colourOf, element, folderText } from "./format.js";
import { issueText } from "./rows.js";

const RATINGS = [0, 1, 2, 3, 4, 5];

/** @param {Row} row */
export function showStem(row) {
  byId("player").classList.remove("idle");
  const name = byId("playing-name");
  name.replaceChildren(element("bdi", { title: row.path }, row.name));
  name.draggable = true;
  const tempo = row.bpm === null ? "" : `${bpmText(row.bpm)} BPM`;
  const facts = [row.category, tempo, row.key, row.ok ? "" : issueText(row.quality), folderText(row.folder)];
  const dot = element("i", { class: "dot", "aria-hidden": "true" });
  dot.style.backgroundColor = colourOf(row.category);
  byId("playing-facts").replaceChildren(dot, element("bdi", {}, facts.filter(Boolean).join(" · ")));
  for (const id of ["play", "like", "unlike", "copy"]) byId(id).disabled = false;
}

/** @param {Row|null} row  @param {(rating: number|null) => void} rate null removes the rating */
export function showStars(row, rate) {
  const given = row?.rating ?? null;
  byId("stars").replaceChildren(...RATINGS.map((value) => {
    const isGiven = value === given;
    const button = element("button", {
      type: "button",
      class: value === 0 ? "zero" : value <= (given ?? 0) ? "on" : "",
      "aria-pressed": String(isGiven),
      "aria-label": `Rate ${value}`,
      title: isGiven ? "Remove the rating (Backspace)" : `Rate ${value} (${value})`,
    }, value === 0 ? "0" : "★");
    button.toggleAttribute("disabled", !row);
    button.addEventListener("click", () => rate(isGiven ? null : value));
    return button;
  }));
}
