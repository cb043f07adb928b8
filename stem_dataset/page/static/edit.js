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
const LABELS = { bpm: "Tempo in beats per minute; empty for none", key: "Key, as Am or F#; empty for none", category: "Category" };

/** @type {(() => void)|null} closes the field that is open */
let close = null;

export const isEditing = () => close !== null;

/**
 * Open a field in a row's cell.
 *
 * @param {HTMLElement} rowElement
 * @param {Row} row
 * @param {Column} column
 * @param {{save: (column: Column, value: string|number|null) => Promise<void>, undo: (column: Column) => Promise<void>,
 *   closed: () => void, next: (column: Column) => void}} parts `save` and `undo` throw an Error for the user
 */
export function edit(rowElement, row, column, parts) {
  close?.();
  const cell = /** @type {HTMLElement} */ (rowElement.querySelector(`[data-column="${column}"]`));
  const before = column === "bpm" ? bpmText(row.bpm) : row[column] ?? "";
  const input = /** @type {HTMLInputElement} */ (element("input", {
    value: before, "aria-label": LABELS[column], autocomplete: "off", spellcheck: "false",
    ...(LISTS[column] ? { list: LISTS[column] } : { inputmode: "decimal" }),
  }));
  const box = element("span", { class: "editor" }, input);
  if (row.corrected.includes(column)) box.append(undoButton());
  rowElement.classList.add("editing");
  rowElement.draggable = false;
  cell.append(box);
  close = () => {
    close = null;
    box.remove();
    rowElement.classList.remove("editing");
    rowElement.draggable = true;
    parts.closed();
  };
  const ownClose = close;
  input.focus();
  input.select();

  function undoButton() {
    const button = element("button", { type: "button", title: "Undo your correction", "aria-label": "Undo your correction" }, "↺");
    button.addEventListener("click", () => attempt(() => parts.undo(column)));
    return button;
  }

  /** @param {() => Promise<void>} action  @returns {Promise<boolean>} whether it was done; else the field says why not */
  async function attempt(action) {
    try {
      await action();
    } catch (error) {
      input.setCustomValidity(/** @type {Error} */ (error).message);
      input.reportValidity();
      input.focus();
      return false;
    }
    if (close === ownClose) ownClose();
    return true;
  }

  async function save() {
    const given = input.value.trim();
    if (given === before) {
      if (close === ownClose) ownClose();
      return true;
    }
    return attempt(() => parts.save(column, valueOf(column, given)));
  }

  input.addEventListener("input", () => input.setCustomValidity(""));
  box.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") ownClose();
    else if (event.key === "Enter" && event.target === input) save();
    else if (event.key === "Tab" && !(event.target === input && !event.shiftKey && box.children.length > 1)) {
      event.preventDefault();
      const step = event.shiftKey ? -1 : 1;
      save().then((done) => done && parts.next(COLUMNS[(COLUMNS.indexOf(column) + step + COLUMNS.length) % COLUMNS.length]));
    } else return;
    if (event.key !== "Tab") event.preventDefault();
  });
  for (const name of ["click", "dblclick", "pointerdown"]) box.addEventListener(name, (event) => event.stopPropagation());
  box.addEventListener("focusout", (event) => {
    const into = /** @type {FocusEvent} */ (event).relatedTarget;
    // The focus goes nowhere when the window loses it; then the field stays.
    if (into instanceof Node && !box.contains(into) && close === ownClose) save();
  });
}

/** @param {Column} column  @param {string} given  @returns {string|number} a tempo as a number, where it is one */
function valueOf(column, given) {
  const number = Number(given.replace(",", "."));
  return column === "bpm" && given && Number.isFinite(number) ? number : given;
}
