/**
 * The map: every stem is a point, and what sounds alike is near. plotly draws it, in a frame of its own (see map.html).
 *
 * plotly is 4.8 MB, so it is fetched when the map comes into view. It gets numbers and colours; names are shown by this
 * page. Outlines are drawn as shapes and judged here, because plotly's own selection takes 13 s for a million points.
 *
 * @typedef {import("./outline.js").Outline} Outline
 */

import * as api from "./api.js";
import { byId, countText } from "./format.js";
import { cornersOfBox, cornersOfPath } from "./outline.js";

const OWN_START_ROWS = 20_000; // up to this many, the map is computed without asking
const ASK_MS = 1_000;
// plotly takes a second or two for a million points, in which the page stands still: not while somebody still types.
const MANY_ROWS = 100_000;
const MANY_WAIT_MS = 500;
const MARGIN = 0.03;
const ZOOM = 1.5;
const PAN = 0.15;
const SHAPE = { line: { color: "#4f7cff", width: 1.5 }, fillcolor: "#4f7cff", opacity: 0.18 };
const TOOLS = /** @type {Record<string, string>} */ ({ lasso: "drawclosedpath", box: "drawrect", pan: "pan" });

export class StemMap {
  /**
   * @param {{colours: () => string[], select: (outline: Outline) => void, play: (position: number) => void,
   *   nameOf: (position: number) => Promise<string>, key: (event: KeyboardEvent) => void}} parts
   *   `colours` by place in `Library.categories`; `key` gets what is pressed while the frame has the focus
   */
  constructor(parts) {
    this.parts = parts;
    this.frame = byId("map-frame");
    /** @type {Promise<Float32Array>|null} */ this.loading = null;
    /** @type {Float32Array|null} */ this.points = null;
    /** @type {Uint8Array} */ this.categories = new Uint8Array();
    /** The found positions; null while all are found. @type {Uint32Array|null} */ this.found = null;
    /** By trace: the positions of its points. @type {Uint32Array[]} */ this.traces = [];
    /** @type {Outline} */ this.outline = [];
    this.extent = extentOf(new Float32Array());
    this.tool = "lasso";
    this.hovered = -1;
    this.current = -1;
    this.visible = false;
    /** The drawing that waits. @type {Promise<void>|null} */ this.drawing = null;
    this.isStale = false; // what is drawn is not what was found last
    /** @type {any} */ this.plotly = null;
    byId("map-start").addEventListener("click", () => this.#start());
    byId("map-update").addEventListener("click", () => this.#start());
    byId("map-tools").addEventListener("click", (/** @type {Event} */ event) => this.#useTool(event));
    byId("map").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
    new IntersectionObserver((entries) => {
      this.visible = entries.some((entry) => entry.isIntersecting);
      if (this.visible) this.#open();
    }).observe(byId("map"));
  }

  /** @returns {Promise<Float32Array>} x, y, x, y, … by position; NaN without a place; empty where there is no map */
  async pointsSoon() {
    const { state } = await api.mapState();
    return state === "ready" ? this.#load() : new Float32Array();
  }

  /** Colour these stems, and grey the others. @param {Uint32Array|null} found  @param {Outline} outline */
  show(found, outline) {
    this.found = found;
    this.outline = outline;
    if (this.visible && this.points) this.#draw();
    else this.isStale = true;
  }

  /** Ring the stem that plays. @param {number} position -1 for none */
  mark(position) {
    this.current = position;
    this.#placeRing();
  }

  /** Show the categories as they are now. */
  async recolour() {
    if (!this.points) return;
    this.categories = await api.mapCategories();
    if (this.visible && this.points) this.#draw();
    else this.isStale = true;
  }

  /** Forget the points, as after the database has changed. */
  forget() {
    this.loading = null;
    this.points = null;
    if (this.visible) this.#open();
  }

  async #open() {
    if (this.points) {
      if (this.isStale) this.#draw();
      return;
    }
    if (this.opening) return;
    this.opening = true;
    try {
      const state = await this.#computed();
      if (state.state === "ready") {
        this.#say("Loading the map");
        await this.#load();
        await this.#draw();
        this.#say("");
        this.#offerUpdate(state.missing);
      } else this.#offer(state);
    } catch (error) {
      this.#say(`There is no map: ${/** @type {Error} */ (error).message}`);
    } finally {
      this.opening = false;
    }
  }

  /** @returns {Promise<import("./api.js").MapState>} when nothing is being computed any more */
  async #computed() {
    let state = await api.mapState();
    const isSmall = state.rows > 1 && state.rows <= OWN_START_ROWS;
    if (isSmall && state.state === "none" && !state.error) state = await api.startMap();
    while (state.state === "computing") {
      this.#say(`Computing the map: ${state.activity}`, state);
      await new Promise((resolve) => { setTimeout(resolve, ASK_MS); });
      state = await api.mapState();
    }
    return state;
  }

  /** @param {number} missing how many stems have come since the map was made */
  #offerUpdate(missing) {
    byId("map-update").hidden = !missing;
    byId("map-update").textContent = `Add ${countText(missing)}`;
  }

  /** @param {import("./api.js").MapState} state */
  #offer(state) {
    byId("map-start").hidden = state.rows < 2;
    if (state.error) this.#say(`There is no map: ${state.error}`);
    else if (state.rows < 2) this.#say("A map needs more stems.");
    else this.#say(`The map of ${countText(state.rows)} is not computed yet. It is computed once and kept.`);
  }

  async #start() {
    byId("map-start").hidden = byId("map-update").hidden = true;
    try {
      await api.startMap();
    } catch (error) {
      this.#say(`There is no map: ${/** @type {Error} */ (error).message}`);
      return;
    }
    this.forget();
  }

  /** @param {string} text  @param {{done: number, total: number}|null} progress */
  #say(text, progress = null) {
    byId("map-text").textContent = text;
    byId("map-state").hidden = !text;
    byId("map-tools").hidden = Boolean(text);
    const bar = byId("map-progress");
    bar.hidden = !progress;
    if (progress && progress.total > 1) {
      bar.max = progress.total;
      bar.value = progress.done;
    } else bar.removeAttribute("value");
  }

  /** @returns {Promise<Float32Array>} */
  #load() {
    this.loading ??= Promise.all([api.mapPoints(), api.mapCategories()]).then(([points, categories]) => {
      this.categories = categories;
      this.extent = extentOf(points);
      this.points = points;
      return points;
    });
    this.loading.catch(() => { this.loading = null; });
    return this.loading;
  }

  /** @returns {Promise<any>} plotly, in its frame */
  async #plotlyInFrame() {
    if (this.plotly) return this.plotly;
    await new Promise((resolve, reject) => {
      this.frame.addEventListener("load", resolve, { once: true });
      this.frame.addEventListener("error", reject, { once: true });
      this.frame.src = "/static/map.html";
      this.frame.hidden = false;
    });
    this.plotly = this.frame.contentWindow.Plotly;
    if (!this.plotly) throw new Error("plotly could not be loaded");
    this.box = this.frame.contentDocument.getElementById("points");
    return this.plotly;
  }

  /** Draw all points anew; calls that come while the drawing waits make no second one. */
  #draw() {
    this.isStale = true;
    const rows = (this.points?.length ?? 0) / 2;
    const wait = rows > MANY_ROWS ? MANY_WAIT_MS : 0;
    this.drawing ??= new Promise((resolve) => { setTimeout(resolve, wait); })
      .then(() => {
        this.isStale = false;
        this.drawing = null;
        return this.#drawNow();
      })
      .catch((error) => this.#say(`There is no map: ${error.message}`));
    return this.drawing;
  }

  async #drawNow() {
    const plotly = await this.#plotlyInFrame();
    const first = !this.box.on;
    const traces = this.#tracesNow();
    const layout = {
      margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, hovermode: "closest", dragmode: TOOLS[this.tool],
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: "kept", hoverdistance: 12,
      xaxis: { visible: false, range: this.extent.x }, yaxis: { visible: false, range: this.extent.y },
      newshape: SHAPE,
      // With "kept", plotly would put what was drawn by hand back over an outline that is gone, as a black box.
      editrevision: false,
      shapes: this.#shapes(),
    };
    const config = { displayModeBar: false, scrollZoom: true, responsive: true, doubleClick: false };
    await plotly.react(this.box, traces, layout, config);
    if (first) this.#listen();
    this.#placeRing();
  }

  /** The stems found by their categories, and below them the others in grey. */
  #tracesNow() {
    const points = /** @type {Float32Array} */ (this.points);
    const rows = points.length / 2;
    const isFound = new Uint8Array(rows).fill(this.found ? 0 : 1);
    this.found?.forEach((position) => { isFound[position] = 1; });
    const colours = this.parts.colours();
    const groups = Array.from({ length: colours.length + 2 }, () => /** @type {number[]} */ ([]));
    for (let position = 0; position < rows; position += 1) {
      if (Number.isNaN(points[2 * position])) continue; // its vector is of another model
      const category = Math.min(this.categories[position] ?? 255, colours.length);
      groups[isFound[position] ? category + 1 : 0].push(position);
    }
    const size = rows > 200_000 ? 2 : rows > 20_000 ? 3 : rows > 2_000 ? 5 : 8;
    this.traces = [];
    return groups.flatMap((positions, group) => {
      if (!positions.length) return [];
      this.traces.push(Uint32Array.from(positions));
      return [{
        type: "scattergl", mode: "markers", hoverinfo: "none",
        x: Float32Array.from(positions, (position) => points[2 * position]),
        y: Float32Array.from(positions, (position) => points[2 * position + 1]),
        marker: group === 0 ? { size, color: "#8b9099", opacity: 0.22 }
          : { size, color: colours[group - 1] ?? "#8b9099", opacity: rows > 20_000 ? 0.6 : 0.85 },
      }];
    });
  }

  #shapes() {
    if (!this.outline.length) return [];
    const path = `M${this.outline.map((corner) => corner.join(",")).join("L")}Z`;
    return [{ type: "path", path, editable: false, ...SHAPE }];
  }

  #listen() {
    const { box } = this;
    const page = this.frame.contentDocument;
    let pressed = [0, 0];
    box.on("plotly_hover", (/** @type {any} */ event) => {
      const { curveNumber, pointNumber } = event.points[0];
      this.#hover(this.traces[curveNumber]?.[pointNumber] ?? -1);
    });
    box.on("plotly_unhover", () => this.#hover(-1));
    box.on("plotly_relayouting", () => this.#placeRing());
    box.on("plotly_relayout", (/** @type {any} */ change) => this.#relaidOut(change));
    page.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
      pressed = [event.clientX, event.clientY];
    }, true);
    page.addEventListener("pointerup", (/** @type {PointerEvent} */ event) => {
      const moved = Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]);
      if (moved < 4 && this.hovered >= 0) this.parts.play(this.hovered);
    }, true);
    page.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event) || this.parts.key(event));
    this.frame.contentWindow.addEventListener("resize", () => requestAnimationFrame(() => this.#placeRing()));
  }

  /** @param {any} change as plotly tells it */
  #relaidOut(change) {
    const drawn = change.shapes?.at(-1);
    if (drawn && drawn.editable !== false) {
      const { type, path, x0, y0, x1, y1 } = drawn;
      const corners = type === "rect" ? cornersOfBox(x0, y0, x1, y1) : cornersOfPath(path);
      this.outline = corners;
      this.plotly.relayout(this.box, { shapes: this.#shapes() });
      if (corners.length >= 3) this.parts.select(corners);
    }
    this.#placeRing();
  }

  /** @param {number} position -1 for none */
  async #hover(position) {
    this.hovered = position;
    const tip = byId("map-tip");
    tip.hidden = true;
    if (position < 0) return;
    const name = await this.parts.nameOf(position).catch(() => "");
    if (this.hovered !== position || !name) return;
    tip.textContent = name;
    tip.hidden = false;
    const [x, y] = this.#placeOf(position);
    const width = byId("map").clientWidth;
    tip.style.left = `${Math.max(4, Math.min(width - tip.offsetWidth - 4, x - tip.offsetWidth / 2))}px`;
    tip.style.top = `${y > 40 ? y - tip.offsetHeight - 10 : y + 12}px`;
  }

  /** @param {number} position  @returns {[number, number]} pixels from the map's corner */
  #placeOf(position) {
    const points = /** @type {Float32Array} */ (this.points);
    const { xaxis, yaxis } = this.box.layout;
    /** @param {number} value  @param {[number, number]} range */
    const share = (value, [from, to]) => (value - from) / (to - from);
    const { clientWidth, clientHeight } = byId("map");
    return [
      share(points[2 * position], xaxis.range) * clientWidth,
      (1 - share(points[2 * position + 1], yaxis.range)) * clientHeight,
    ];
  }

  #placeRing() {
    const ring = byId("map-ring");
    ring.hidden = this.current < 0 || !this.points || Number.isNaN(this.points[2 * this.current]) || !this.box?.layout;
    if (ring.hidden) return;
    const [x, y] = this.#placeOf(this.current);
    ring.style.transform = `translate(${x}px, ${y}px)`;
  }

  /** @param {Event} event */
  #useTool(event) {
    const button = /** @type {HTMLElement} */ (event.target).closest("button");
    if (!button || !this.box?.layout) return;
    const { tool, act } = button.dataset;
    if (tool) {
      this.tool = tool;
      byId("map-tools").querySelectorAll("[data-tool]").forEach((/** @type {HTMLElement} */ one) =>
        one.setAttribute("aria-pressed", String(one === button)));
      this.plotly.relayout(this.box, { dragmode: TOOLS[tool] });
    } else if (act === "view") {
      const { xaxis: { range: x }, yaxis: { range: y } } = this.box.layout;
      this.parts.select(cornersOfBox(x[0], y[0], x[1], y[1]));
    } else if (act === "in") this.#zoom(1 / ZOOM);
    else if (act === "out") this.#zoom(ZOOM);
    else if (act === "all") this.#look(this.extent.x, this.extent.y);
  }

  /** @param {number} factor of what is in view */
  #zoom(factor) {
    const { xaxis, yaxis } = this.box.layout;
    const scaled = (/** @type {[number, number]} */ [from, to]) => {
      const [middle, half] = [(from + to) / 2, ((to - from) / 2) * factor];
      return /** @type {[number, number]} */ ([middle - half, middle + half]);
    };
    this.#look(scaled(xaxis.range), scaled(yaxis.range));
  }

  /** @param {[number, number]} x  @param {[number, number]} y */
  #look(x, y) {
    this.plotly.relayout(this.box, { "xaxis.range": [...x], "yaxis.range": [...y] });
  }

  /** @param {KeyboardEvent} event  @returns {boolean} whether it was the map's */
  #key(event) {
    const ways = { ArrowLeft: [-PAN, 0], ArrowRight: [PAN, 0], ArrowUp: [0, PAN], ArrowDown: [0, -PAN] };
    const way = /** @type {Record<string, number[]>} */ (ways)[event.key];
    if (!this.box?.layout || event.ctrlKey || event.metaKey || event.altKey) return false;
    if (way) {
      const { xaxis: { range: x }, yaxis: { range: y } } = this.box.layout;
      const moved = (/** @type {[number, number]} */ [from, to], /** @type {number} */ share) =>
        /** @type {[number, number]} */ ([from + (to - from) * share, to + (to - from) * share]);
      this.#look(moved(x, way[0]), moved(y, way[1]));
    } else if (event.key === "+" || event.key === "=") this.#zoom(1 / ZOOM);
    else if (event.key === "-") this.#zoom(ZOOM);
    else return false;
    event.preventDefault();
    event.stopPropagation();
    return true;
  }
}

/** @param {Float32Array} points  @returns {{x: [number, number], y: [number, number]}} what shows them all */
function extentOf(points) {
  const ends = [Infinity, -Infinity, Infinity, -Infinity];
  for (let place = 0; place < points.length; place += 2) {
    if (Number.isNaN(points[place])) continue;
    ends[0] = Math.min(ends[0], points[place]);
    ends[1] = Math.max(ends[1], points[place]);
    ends[2] = Math.min(ends[2], points[place + 1]);
    ends[3] = Math.max(ends[3], points[place + 1]);
  }
  const widened = (/** @type {number} */ from, /** @type {number} */ to) => {
    const margin = (to - from) * MARGIN || 1;
    return /** @type {[number, number]} */ ([from - margin, to + margin]);
  };
  return { x: widened(ends[0], ends[1]), y: widened(ends[2], ends[3]) };
}
