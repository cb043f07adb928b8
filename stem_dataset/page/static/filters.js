/**
 * The fields that filter: they show the query, and change it.
 *
 * @typedef {import("./query.js").Query} Query
 * @typedef {import("./api.js").Library} Library
 */

import { byId, colourOf, element } from "./format.js";

/** @type {[string, "bpm"|"seconds"|"key"|"kind"|"rating"][]} */
const VALUES = [["bpm", "bpm"], ["seconds", "seconds"], ["key", "key"], ["kind", "kind"], ["rating", "rating"]];
/** @type {[string, "half_double"|"related"|"ok"][]} */
const TICKS = [["half-double", "half_double"], ["related", "related"], ["ok", "ok"]];

export class Filters {
  /** @param {(change: Partial<Query>) => void} change  @param {() => Query} query */
  constructor(change, query) {
    this.change = change;
    this.query = query;
    for (const [id, part] of VALUES) {
      byId(id).addEventListener("change", () => change({ [part]: byId(id).value.trim() }));
    }
    for (const [id, part] of TICKS) {
      byId(id).addEventListener("change", () => change({ [part]: byId(id).checked }));
    }
    byId("folder").addEventListener("change", () => this.#addFolder());
    byId("filters").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault(); // Enter has already fired `change`, where something has changed
    });
    byId("category-choices").addEventListener("change", () => {
      const ticked = byId("category-choices").querySelectorAll("input:checked");
      change({ categories: [...ticked].map((/** @type {any} */ one) => one.value) });
    });
  }

  /** @param {Library} library */
  offer(library) {
    byId("category-choices").replaceChildren(...library.categories.map(({ name, rows }) => {
      const dot = element("i", { class: "dot", "aria-hidden": "true" });
      dot.style.backgroundColor = colourOf(name);
      return element("label", { class: "tick" }, element("input", { type: "checkbox", value: name }), dot,
        element("bdi", {}, name), element("span", { class: "faint" }, rows.toLocaleString("en")));
    }));
    byId("key").replaceChildren(element("option", { value: "" }, "any"),
      ...library.keys.map((key) => element("option", { value: key }, key)));
    byId("key-names").replaceChildren(...library.keys.map((key) => element("option", { value: key })));
    byId("category-names").replaceChildren(...library.categories.map(({ name }) => element("option", { value: name })));
    this.show();
  }

  /** Show the query in the fields. */
  show() {
    const query = this.query();
    for (const [id, part] of VALUES) show(byId(id), query[part]);
    for (const [id, part] of TICKS) byId(id).checked = query[part];
    byId("folder").value = "";
    byId("category-choices").querySelectorAll("input").forEach((/** @type {HTMLInputElement} */ box) => {
      box.checked = query.categories.includes(box.value);
    });
    const [first, ...more] = query.categories;
    const others = more.length ? ` +${more.length}` : "";
    byId("category-menu").querySelector("summary").textContent = first ? first + others : "Category";
    byId("half-double").disabled = !query.bpm;
    byId("related").disabled = !query.key;
  }

  #addFolder() {
    const folder = byId("folder").value.trim();
    const { folders } = this.query();
    if (folder && !folders.includes(folder)) this.change({ folders: [...folders, folder] });
    byId("folder").value = "";
  }
}

/** A choice that is not offered, as from an old bookmark, is added. @param {any} field  @param {string} value */
function show(field, value) {
  if (field.tagName === "SELECT" && ![...field.options].some((option) => option.value === value)) {
    field.append(element("option", { value }, value));
  }
  field.value = value;
}
