/**
 * Corrects a tempo, key or category in its cell.
 *
 * Enter saves, Escape leaves all as it was, Tab saves and goes on to the next value. Where a value is a correction, a
 * button beside the field undoes it.
 *
 * @typedef {import("./api.js").Row} Row
 * @typedef {"bpm"|"key"|"category"} Column
 */

import { bpmText, element } from "./format.js";

export const COLUMNS = /** @type {Column[]} */ (["category", "bpm", "key"]);
const LISTS = { bpm: "", key: "key-names", category: "category-names" };
const LABELS = {
  bpm: "Tempo in beats per minute; empty for none", key: "Key, as Am or F#; empty for none", category: "Category",
};

/** @type {(() => void)|null} closes the field that is open */
let close = null;

export const isEditing = () => close !== null;

/** Leave all as it was. */
export const stopEditing = () => close?.();

/**
 * Open a field in a row's cell. It closes at once when it is saved, so that the next key does what it says; `refused`
 * may open it again.
 *
 * @param {HTMLElement} rowElement
 * @param {Row} row
 * @param {Column} column
 * @param {{save: (column: Column, value: string|number) => Promise<void>, undo: (column: Column) => Promise<void>,
 *   refused: (column: Column, given: string, error: Error) => void, closed: () => void,
 *   next: (column: Column) => void}} parts `save` and `undo` throw an Error with a text for the user
 * @param {{given: string, message: string}|null} [refusal] what the server has refused, and why
 */
export function edit(rowElement, row, column, parts, refusal = null) {
  close?.();
  const cell = /** @type {HTMLElement} */ (rowElement.querySelector(`[data-column="${column}"]`));
  const before = column === "bpm" ? bpmText(row.bpm) : row[column] ?? "";
  const input = /** @type {HTMLInputElement} */ (element("input", {
    value: refusal ? refusal.given : before, "aria-label": LABELS[column], autocomplete: "off", spellcheck: "false",
    ...(LISTS[column] ? { list: LISTS[column] } : { inputmode: "decimal" }),
  }));
  const box = element("span", { class: "editor" }, input);
  rowElement.classList.add("editing");
  rowElement.draggable = false;
  cell.append(box);
  const ownClose = () => {
    if (close !== ownClose) return;
    close = null;
    box.remove(); // which moves the focus out of it, and so calls this again
    rowElement.classList.remove("editing");
    rowElement.draggable = true;
    parts.closed();
  };
  close = ownClose;

  /** @param {() => Promise<void>} action */
  const act = (action) => {
    const given = input.value;
    ownClose();
    action().catch((error) => parts.refused(column, given, error));
  };
  const save = () => {
    const given = input.value.trim();
    if (given === before && !refusal) ownClose();
    else act(() => parts.save(column, valueOf(column, given)));
  };
  if (row.corrected.includes(column)) {
    const label = "Undo your correction";
    const undo = element("button", { type: "button", title: label, "aria-label": label }, "↺");
    undo.addEventListener("click", () => act(() => parts.undo(column)));
    box.append(undo);
  }

  input.addEventListener("input", () => input.setCustomValidity(""));
  box.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const isTabToUndo = event.key === "Tab" && event.target === input && !event.shiftKey && box.children.length > 1;
    const isEnterOnUndo = event.key === "Enter" && event.target !== input;
    if (isTabToUndo || isEnterOnUndo || !["Escape", "Enter", "Tab"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") ownClose();
    else save();
    if (event.key === "Tab") parts.next(neighbour(column, event.shiftKey ? -1 : 1));
  });
  for (const name of ["click", "dblclick", "pointerdown"]) {
    box.addEventListener(name, (event) => event.stopPropagation());
  }
  box.addEventListener("focusout", (event) => {
    const into = /** @type {FocusEvent} */ (event).relatedTarget;
    // The focus goes nowhere when the window loses it; then the field stays.
    if (into instanceof Node && !box.contains(into) && close === ownClose) save();
  });
  input.focus();
  input.select();
  if (refusal) {
    input.setCustomValidity(refusal.message);
    input.reportValidity();
  }
}

/** @param {Column} column  @param {1|-1} step */
const neighbour = (column, step) => COLUMNS[(COLUMNS.indexOf(column) + step + COLUMNS.length) % COLUMNS.length];

/** @param {Column} column  @param {string} given  @returns {string|number} a tempo as a number, where it is one */
function valueOf(column, given) {
  if (!given) return column === "category" ? "unknown" : "none";
  const number = Number(given.replace(",", "."));
  return column === "bpm" && Number.isFinite(number) ? number : given;
}
