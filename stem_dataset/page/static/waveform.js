/** Draws the waveform of the stem that plays, and seeks where it is clicked. */

import { lengthText } from "./format.js";

const SEEK_STEP = 0.05;

export class Waveform {
  /**
   * @param {HTMLElement} box a slider with a canvas in it
   * @param {{fetchPeaks: (id: string) => Promise<{peaks: [number, number][]}>, seek: (fraction: number) => void}} parts
   */
  constructor(box, parts) {
    this.box = box;
    this.canvas = /** @type {HTMLCanvasElement} */ (box.querySelector("canvas"));
    this.parts = parts;
    this.id = "";
    /** @type {[number, number][]} lowest and highest, -1 to 1 */ this.peaks = [];
    this.fraction = 0;
    box.addEventListener("pointerdown", (event) => this.#press(event));
    box.addEventListener("pointermove", (event) => event.buttons === 1 && this.#press(event));
    box.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw()).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** @param {string} id of the stem; the shape follows when it has come */
  async show(id) {
    if (id === this.id) return;
    this.id = id;
    this.peaks = [];
    this.draw();
    try {
      const { peaks } = await this.parts.fetchPeaks(id);
      if (id !== this.id) return; // another stem has been chosen meanwhile
      this.peaks = peaks;
      this.box.toggleAttribute("data-drawn", peaks.length > 0);
    } catch { /* a file that is gone has no shape; the player says so */ }
    this.draw();
  }

  /** @param {number} time  @param {number} duration both in seconds */
  at(time, duration) {
    this.fraction = duration ? Math.min(1, time / duration) : 0;
    this.box.setAttribute("aria-valuemax", duration.toFixed(2));
    this.box.setAttribute("aria-valuenow", time.toFixed(2));
    this.box.setAttribute("aria-valuetext", `${lengthText(time)} of ${lengthText(duration)} seconds`);
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.box;
    const scale = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    const context = this.canvas.getContext("2d");
    if (!context || !width) return;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(this.box);
    this.#drawBars(context, width, height, style.getPropertyValue("--played"), style.getPropertyValue("--to-play"));
    if (this.id && this.fraction > 0) {
      context.fillStyle = style.getPropertyValue("--played");
      context.fillRect(Math.min(width - 1.5, this.fraction * width), 0, 1.5, height);
    }
  }

  /**
   * @param {CanvasRenderingContext2D} context  @param {number} width  @param {number} height
   * @param {string} played  @param {string} toPlay colours
   */
  #drawBars(context, width, height, played, toPlay) {
    const middle = height / 2;
    if (!this.peaks.length) {
      context.fillStyle = toPlay;
      context.fillRect(0, middle - 0.5, width, 1);
      return;
    }
    const bars = Math.floor(width / 3);
    for (let bar = 0; bar < bars; bar += 1) {
      const from = Math.floor((bar * this.peaks.length) / bars);
      const to = Math.max(from + 1, Math.floor(((bar + 1) * this.peaks.length) / bars));
      const part = this.peaks.slice(from, to);
      const least = Math.min(...part.map(([low]) => low));
      const most = Math.max(...part.map(([, high]) => high));
      const top = middle - most * (middle - 1);
      context.fillStyle = bar / bars < this.fraction ? played : toPlay;
      context.fillRect(bar * 3, Math.min(top, middle - 0.5), 2, Math.max(1, (most - least) * (middle - 1)));
    }
  }

  /** @param {PointerEvent} event */
  #press(event) {
    if (event.button > 0) return;
    if (event.type === "pointerdown") this.box.setPointerCapture(event.pointerId);
    const { left, width } = this.box.getBoundingClientRect();
    this.parts.seek((event.clientX - left) / width);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const steps = { ArrowRight: SEEK_STEP, ArrowUp: SEEK_STEP, ArrowLeft: -SEEK_STEP, ArrowDown: -SEEK_STEP };
    const step = /** @type {Record<string, number>} */ (steps)[event.key];
    const target = event.key === "Home" ? 0 : event.key === "End" ? 1 : step && this.fraction + step;
    if (target === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.parts.seek(target);
  }
}
