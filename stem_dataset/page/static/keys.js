/**
 * The keys: one table that both acts and explains itself.
 *
 * @typedef {{keys: string[], shown: string, text: string, act: (key: string) => void}} Binding
 * @typedef {{step: (rows: number) => void, page: (pages: number) => void, playFirst: () => void, playLast: () => void,
 *   toggle: () => void, seek: (share: number) => void, rate: (rating: number|null) => void,
 *   correct: (column: import("./edit.js").Column) => void, like: () => void, unlike: () => void, copy: () => void,
 *   original: () => void, repeat: () => void, listen: () => void, quarantine: () => void, clear: () => void,
 *   search: () => void}} Actions
 */

import { byId, element } from "./format.js";

const FIELDS = "input, select, textarea, [contenteditable]";
const OWN_KEYS = "button, summary, a, [role=listbox]";
const MOVING_KEYS = "ArrowUp ArrowDown ArrowLeft ArrowRight Home End PageUp PageDown".split(" ");
const KEYS_OF_CONTROLS = [...MOVING_KEYS, "Enter", " "];
const SEEK_SHARE = 0.1;

/** @param {Actions} actions  @returns {Binding[]} */
export function bindingsOf(actions) {
  /** @type {Binding[]} */ const bindings = [];
  /** @param {string|string[]} keys  @param {string} shown  @param {string} text  @param {(key: string) => void} act */
  const bind = (keys, shown, text, act) => bindings.push({ keys: [keys].flat(), shown, text, act });
  bind(["ArrowDown", "j"], "↓ j", "Play the next stem", () => actions.step(1));
  bind(["ArrowUp", "k"], "↑ k", "Play the previous stem", () => actions.step(-1));
  bind("PageDown", "Page_down", "Play a stem one page below", () => actions.page(1));
  bind("PageUp", "Page_up", "Play a stem one page above", () => actions.page(-1));
  bind("Home", "Home", "Play the first stem", actions.playFirst);
  bind("End", "End", "Play the last stem", actions.playLast);
  bind(" ", "Space", "Stop, or play on", actions.toggle);
  bind("ArrowLeft", "←", "Back by a tenth", () => actions.seek(-SEEK_SHARE));
  bind("ArrowRight", "→", "Forward by a tenth", () => actions.seek(SEEK_SHARE));
  bind([..."012345"], "0 … 5", "Rate the stem", (key) => actions.rate(Number(key)));
  bind(["Backspace", "Delete"], "Backspace", "Remove the rating", () => actions.rate(null));
  const correcting = "Correct category, tempo and key; Tab goes on, Escape cancels";
  bind(["Enter", "F2"], "Enter", correcting, () => actions.correct("category"));
  bind("b", "b", "Correct the tempo", () => actions.correct("bpm"));
  bind("g", "g", "Correct the key", () => actions.correct("key"));
  bind("m", "m", "More like this", actions.like);
  bind("l", "l", "Less like this", actions.unlike);
  bind("c", "c", "Copy the path", actions.copy);
  bind("o", "o", "Hear the original, or the standardised WAV", actions.original);
  bind("r", "r", "Repeat", actions.repeat);
  bind("n", "n", "Show what needs a listen", actions.listen);
  bind("q", "q", "Show the quarantine", actions.quarantine);
  bind("x", "x", "Remove all filters", actions.clear);
  bind("/", "/", "Search", actions.search);
  bind("?", "?", "Show these keys", () => showKeys(bindings));
  return bindings;
}

/**
 * @param {Binding[]} bindings
 * @returns {(event: KeyboardEvent) => void} the listener
 */
export function listenerOf(bindings) {
  const byKey = new Map(bindings.flatMap((binding) => binding.keys.map((key) => [key, binding])));
  return (event) => {
    // `target` may be of the map's frame, whose classes are not ours.
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
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
    list.append(...bindings.map(({ shown, text }) => {
      const keys = shown.split(" ").map((key) => element("kbd", {}, key.replace("_", " ")));
      return element("div", {}, element("dt", {}, ...keys), element("dd", {}, text));
    }));
  }
  byId("keys").showModal();
}
