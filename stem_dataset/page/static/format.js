/** How values look: numbers, lengths, folders and the colour of a category. Names are put in as text, as they are. */

// Distinguishable on white and on black, in the order of the most frequent categories.
const PALETTE = [
  "#4f7cff", "#f2803a", "#1fa971", "#e0529c", "#9a6bff", "#c9a20a", "#16a3c4", "#e5534b",
  "#7aa329", "#b86b3d", "#5f8ea8", "#c57bdb", "#2fb5a0", "#d98a94", "#8a8f2a", "#6f7bd1",
];
export const NO_COLOUR = "#8b9099";

/** @type {Map<string, string>} */
const colours = new Map();

/** Give each category its colour. @param {{name: string}[]} categories */
export function nameColours(categories) {
  colours.clear();
  categories.forEach(({ name }, place) => {
    colours.set(name, name === "unknown" ? NO_COLOUR : PALETTE[place % PALETTE.length]);
  });
}

/** @param {string|null} category */
export const colourOf = (category) => (category && colours.get(category)) || NO_COLOUR;

/** @param {number|null} bpm */
export const bpmText = (bpm) => (bpm === null ? "" : String(Math.round(bpm * 10) / 10));

/** 0.35, 12.4, 3:05 or 1:02:03.  @param {number} seconds */
export function lengthText(seconds) {
  if (seconds < 10) return seconds.toFixed(2);
  if (seconds < 60) return seconds.toFixed(1);
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/**
 * The end of a folder's path, as many whole names as fit: its beginning is the same for most stems.
 *
 * @param {string} folder
 * @param {number} [most] characters
 */
export function folderText(folder, most = 16) {
  const names = folder.split(/[\\/]/).filter(Boolean);
  let kept = names.length - 1;
  while (kept > 0 && names.slice(kept - 1).join("/").length <= most) kept -= 1;
  return kept <= 0 ? folder : names.slice(kept).join("/");
}

/** @param {number} count */
export const countText = (count) => `${count.toLocaleString("en")} ${count === 1 ? "stem" : "stems"}`;

/** Up to three digits, without zeros at the end.  @param {number} value */
export const shortNumber = (value) => String(Number(value.toPrecision(3)));

/**
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(Node|string)} children texts are put in as text, never as HTML
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** @param {string} id  @returns {any} the element of page.html */
export const byId = (id) => document.getElementById(id);
