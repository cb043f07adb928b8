/**
 * The charts of what was found: how many stems have which tempo, length, category and key. A click or a drag filters.
 *
 * They are bars of HTML, so they are there at once, and the keyboard and a screen reader reach each bar.
 *
 * @typedef {import("./api.js").Histograms} Histograms
 * @typedef {{label: string, count: number, colour?: string}} Bar
 */

import { colourOf, countText, element, lengthText, shortNumber } from "./format.js";

const FEWEST_BINS = 12;
// The least difference between two values of the database.
const STEPS = { bpm: 0.01, seconds: 0.0001 };

class BarChart {
  /**
   * @param {HTMLElement} figure
   * @param {string} title
   * @param {"across"|"down"} way bars stand side by side, or lie one below the other with their names
   * @param {boolean} isRange a drag over several bars filters by all of them
   * @param {(first: number, last: number) => void} pick bars are picked
   */
  constructor(figure, title, way, isRange, pick) {
    this.title = title;
    this.isRange = isRange;
    this.pick = pick;
    this.silence = ""; // what the readout says while no bar is pointed at
    this.readout = element("span", { class: "readout" });
    this.box = element("div", {
      class: `bars ${way}`, role: "listbox", tabindex: "0", "aria-label": title,
      "aria-orientation": way === "across" ? "horizontal" : "vertical",
      ...(isRange ? { "aria-multiselectable": "true" } : {}),
    });
    this.axis = element("div", { class: "axis", "aria-hidden": "true" });
    figure.classList.add("chart");
    figure.replaceChildren(element("figcaption", {}, element("span", {}, title), this.readout), this.box, this.axis);
    /** @type {Bar[]} */ this.bars = [];
    this.at = 0;
    this.from = -1; // where a drag or a selection with Shift began
    this.box.addEventListener("pointerdown", (event) => this.#press(event));
    this.box.addEventListener("pointermove", (event) => this.#move(event));
    this.box.addEventListener("pointerup", (event) => this.#release(event));
    this.box.addEventListener("pointercancel", () => this.#mark(-1, -1));
    this.box.addEventListener("pointerleave", () => this.from < 0 && this.#say(-1));
    this.box.addEventListener("keydown", (event) => this.#key(event));
    this.box.addEventListener("focus", () => this.#reach(this.at, false));
    this.box.addEventListener("blur", () => this.#blur());
  }

  /** @param {Bar[]} bars  @param {string[]} axis texts below, spread evenly  @param {number} missing have no value */
  show(bars, axis, missing) {
    this.bars = bars;
    this.silence = missing ? `${missing.toLocaleString("en")} unknown` : "";
    this.readout.textContent = this.silence;
    const most = Math.max(1, ...bars.map(({ count }) => count));
    this.box.replaceChildren(...bars.map(({ label, count, colour }, place) => {
      const fill = element("i", { "aria-hidden": "true" });
      fill.style.setProperty("--share", String(count / most));
      if (colour) fill.style.setProperty("--bar", colour);
      const name = element("bdi", { class: "bar-name" }, label);
      return element("div", {
        role: "option", id: `${this.title}-${place}`.replace(/\W/g, "-"), class: count ? "bar" : "bar none",
        "aria-selected": "false", "aria-label": `${label}: ${countText(count)}`,
      }, name, fill, element("span", { class: "bar-count" }, count.toLocaleString("en")));
    }));
    this.axis.replaceChildren(...axis.map((text) => element("span", {}, text)));
    this.at = Math.min(this.at, Math.max(0, bars.length - 1));
    this.from = -1;
  }

  /** @param {PointerEvent} event  @returns {number} the bar under the pointer, or the nearest one of a drag */
  #barAt(event) {
    const places = [...this.box.children].map((bar) => bar.getBoundingClientRect());
    if (!places.length) return -1;
    if (!this.box.classList.contains("across")) {
      const found = places.findIndex(({ top, bottom }) => event.clientY >= top && event.clientY < bottom);
      return found >= 0 ? found : event.clientY < places[0].top ? 0 : places.length - 1;
    }
    const { left } = places[0];
    const width = places[places.length - 1].right - left;
    return Math.max(0, Math.min(places.length - 1, Math.floor(((event.clientX - left) / width) * places.length)));
  }

  /** @param {PointerEvent} event */
  #press(event) {
    if (event.button !== 0 || !this.bars.length) return;
    this.box.setPointerCapture(event.pointerId);
    this.at = this.from = this.#barAt(event);
    this.#mark(this.from, this.from);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const bar = this.#barAt(event);
    if (this.from < 0) return this.#say(bar);
    this.at = bar;
    return this.#mark(this.isRange ? this.from : bar, bar);
  }

  /** @param {PointerEvent} event */
  #release(event) {
    if (this.from < 0) return;
    const bar = this.#barAt(event);
    const first = this.isRange ? this.from : bar;
    this.from = -1;
    this.#choose(first, bar);
  }

  /** @param {number} one  @param {number} other */
  #choose(one, other) {
    const [first, last] = one < other ? [one, other] : [other, one];
    this.#mark(-1, -1);
    if (this.bars.slice(first, last + 1).some(({ count }) => count)) this.pick(first, last);
  }

  /** @param {number} one  @param {number} other mark the bars between them; -1 marks none */
  #mark(one, other) {
    const [first, last] = one < other ? [one, other] : [other, one];
    [...this.box.children].forEach((bar, place) => {
      bar.setAttribute("aria-selected", String(place >= first && place <= last && first >= 0));
    });
    if (first < 0) this.from = -1;
    this.#say(first, last);
  }

  /** @param {number} first  @param {number} last */
  #say(first, last = first) {
    const bars = first < 0 ? [] : this.bars.slice(first, last + 1);
    const count = bars.reduce((sum, bar) => sum + bar.count, 0);
    this.readout.textContent = bars.length ? `${labelOf(bars)}: ${countText(count)}` : this.silence;
  }

  /** @param {number} bar  @param {boolean} extends_ */
  #reach(bar, extends_) {
    if (!this.bars.length) return;
    this.at = Math.max(0, Math.min(this.bars.length - 1, bar));
    const reached = this.box.children[this.at];
    this.box.setAttribute("aria-activedescendant", reached.id);
    reached.scrollIntoView({ block: "nearest" });
    this.#mark(extends_ && this.from >= 0 ? this.from : this.at, this.at);
  }

  #blur() {
    this.box.removeAttribute("aria-activedescendant");
    this.#mark(-1, -1);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const all = this.bars.length;
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -all, End: all };
    const step = /** @type {Record<string, number>} */ (steps)[event.key];
    if (step) {
      const extending = event.shiftKey && this.isRange;
      if (!extending) this.from = -1;
      else if (this.from < 0) this.from = this.at;
      this.#reach(this.at + step, extending);
    } else if (event.key === "Enter" || event.key === " ") this.#choose(this.from < 0 ? this.at : this.from, this.at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** The bins that had any stems so far: the server's reach from 30 to 302 BPM, and no library does. */
class ShownBins {
  constructor() {
    this.first = Infinity;
    this.last = -1;
  }

  /** @param {import("./api.js").Bins} bins  @returns {import("./api.js").Bins} */
  part({ edges, counts, missing }) {
    counts.forEach((count, place) => {
      if (!count) return;
      this.first = Math.min(this.first, place);
      this.last = Math.max(this.last, place);
    });
    if (this.last < 0) return { edges: [], counts: [], missing };
    const spare = Math.max(0, FEWEST_BINS - (this.last - this.first + 1));
    const first = Math.max(0, this.first - Math.ceil(spare / 2));
    const last = Math.min(counts.length - 1, Math.max(this.last, first + FEWEST_BINS - 1));
    return { edges: edges.slice(first, last + 2), counts: counts.slice(first, last + 1), missing };
  }
}

export class Charts {
  /**
   * @param {Record<"bpm"|"seconds"|"category"|"key", HTMLElement>} figures
   * @param {(change: {bpm?: string, seconds?: string, categories?: string[], key?: string}) => void} filter
   */
  constructor(figures, filter) {
    /** @type {Histograms|null} */ this.histograms = null;
    this.shown = { bpm: new ShownBins(), seconds: new ShownBins() };
    /** @param {"bpm"|"seconds"} name  @returns {(first: number, last: number) => void} */
    const range = (name) => (first, last) => {
      const { edges } = this.shown[name].part(/** @type {Histograms} */ (this.histograms)[name]);
      // A bin ends before its upper edge, and a filter includes it.
      filter({ [name]: `${plain(edges[first])}-${plain(edges[last + 1] - STEPS[name])}` });
    };
    const names = (/** @type {"category"|"key"} */ name) => /** @type {Histograms} */ (this.histograms)[name].names;
    this.bpm = new BarChart(figures.bpm, "Tempo", "across", true, range("bpm"));
    this.seconds = new BarChart(figures.seconds, "Length", "across", true, range("seconds"));
    this.category = new BarChart(figures.category, "Category", "down", true,
      (first, last) => filter({ categories: names("category").slice(first, last + 1) }));
    this.key = new BarChart(figures.key, "Key", "across", false, (first) => filter({ key: names("key")[first] }));
  }

  /** @param {Histograms} histograms */
  show(histograms) {
    this.histograms = histograms;
    const { category, key } = histograms;
    const [bpm, seconds] = [this.shown.bpm.part(histograms.bpm), this.shown.seconds.part(histograms.seconds)];
    this.bpm.show(binsOf(bpm, shortNumber), endsOf(bpm.edges, shortNumber), bpm.missing);
    this.seconds.show(binsOf(seconds, lengthUnit), endsOf(seconds.edges, lengthUnit), seconds.missing);
    this.category.show(category.names.map((label, place) =>
      ({ label, count: category.counts[place], colour: colourOf(label) })), [], category.missing);
    const keys = key.names.map((label, place) => ({ label, count: key.counts[place] }));
    this.key.show(keys, keyAxis(key.names), key.missing);
  }
}

/** @param {number} seconds */
const lengthUnit = (seconds) => (seconds < 60 ? `${shortNumber(seconds)} s` : lengthText(seconds));

/** @param {Bar[]} bars  @returns {string} "90–94", or of the first's beginning and the last's end */
function labelOf(bars) {
  const ends = bars.flatMap(({ label }) => label.split("–"));
  return bars.length > 1 ? `${ends[0]}–${ends[ends.length - 1]}` : bars[0].label;
}

/** Without an exponent, and not narrower than the edge was. @param {number} value */
const plain = (value) => String(Number(value.toFixed(4)));

/** @param {{edges: number[], counts: number[]}} bins  @param {(value: number) => string} text  @returns {Bar[]} */
const binsOf = ({ edges, counts }, text) =>
  counts.map((count, place) => ({ label: `${text(edges[place])}–${text(edges[place + 1])}`, count }));

/** @param {number[]} edges  @param {(value: number) => string} text */
const endsOf = (edges, text) =>
  (edges.length ? [0, Math.floor(edges.length / 2), edges.length - 1].map((place) => text(edges[place])) : []);

/** @param {string[]} names the major keys, then the minor ones */
const keyAxis = (names) => (names.length === 24 ? ["C", "major", "B", "Cm", "minor", "Bm"] : []);
