/**
 * The keys: one table that both acts and explains itself.
 *
 * @typedef {{keys: string[], shown: string, text: string, act: (key: string) => void}} Binding
 */

import { byId, element } from "./format.js";

const FIELDS = "input, select, textarea, [contenteditable]";
const OWN_KEYS = "button, summary, a, [role=listbox]";
const KEYS_OF_CONTROLS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "PageUp", "PageDown", "Enter", " "];

/**
 * @param {Binding[]} bindings
 * @returns {(event: KeyboardEvent) => void} the listener
 */
export function listenerOf(bindings) {
  const byKey = new Map(bindings.flatMap((binding) => binding.keys.map((key) => [key, binding])));
  return (event) => {
    // `target` may be of the map's frame, whose classes are not ours.
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
    if (target.matches?.(FIELDS) && !isTick(target)) return;
    if (KEYS_OF_CONTROLS.includes(event.key) && (target.matches?.(OWN_KEYS) || isTick(target))) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const binding = byKey.get(key);
    if (!binding) return;
    event.preventDefault();
    binding.act(key);
  };
}

/** @param {HTMLElement} target */
const isTick = (target) => Boolean(target.matches?.("input[type=checkbox]"));

/** @param {Binding[]} bindings */
export function showKeys(bindings) {
  const list = byId("keys-list");
  if (!list.children.length) {
    list.append(...bindings.map(({ shown, text }) => element("div", {},
      element("dt", {}, ...shown.split(" ").map((key) => element("kbd", {}, key.replace("_", " ")))), element("dd", {}, text))));
  }
  byId("keys").showModal();
}
