/**
 * Plays one stem at a time, and has the next one ready.
 *
 * @typedef {import("./api.js").Row} Row
 */

import { audioUrl } from "./api.js";

const READY_STEMS = 4; // the one that plays, its neighbours, and one more

export class Player {
  /** @param {{changed: () => void, failed: (row: Row) => void}} parts `changed` is called while a stem plays, too */
  constructor(parts) {
    this.parts = parts;
    /** @type {Row|null} */ this.row = null;
    this.original = false;
    this.repeat = false;
    /** Those last used are last. @type {Map<string, HTMLAudioElement>} */ this.ready = new Map();
    this.frame = 0;
  }

  /** @returns {HTMLAudioElement|undefined} */
  get audio() {
    return this.row ? this.ready.get(this.#urlOf(this.row)) : undefined;
  }

  get isPlaying() {
    return Boolean(this.audio && !this.audio.paused && !this.audio.ended);
  }

  /** @returns {number} in seconds */
  get time() {
    return this.audio?.currentTime ?? 0;
  }

  /** @returns {number} in seconds */
  get duration() {
    const duration = this.audio?.duration;
    return duration && Number.isFinite(duration) ? duration : this.row?.seconds ?? 0;
  }

  /** Play a stem from its beginning. @param {Row} row */
  play(row) {
    this.audio?.pause();
    this.row = row;
    if (this.audio?.error) this.#forget(this.#urlOf(row), this.audio); // as it was prepared; the drive may be back
    if (row.audio === null) this.parts.failed(row);
    else this.#start(this.#audioOf(row), 0);
    this.parts.changed();
  }

  /** Show a stem without playing it. @param {Row} row */
  choose(row) {
    this.audio?.pause();
    this.row = row;
    this.parts.changed();
  }

  toggle() {
    if (!this.row || this.row.audio === null) return;
    const audio = this.#audioOf(this.row);
    if (this.isPlaying) audio.pause();
    else this.#start(audio, audio.ended ? 0 : audio.currentTime);
    this.parts.changed();
  }

  /** @param {number} fraction 0 to 1 */
  seek(fraction) {
    if (!this.row || this.row.audio === null) return;
    const audio = this.#audioOf(this.row);
    this.#start(audio, Math.max(0, Math.min(1, fraction)) * this.duration);
  }

  /** Fetch a stem, so that it plays at once. @param {Row|undefined} row */
  prepare(row) {
    if (row && row.audio !== null) this.#audioOf(row);
  }

  /** Play the original file instead of the standardised WAV, or the WAV again. @param {boolean} original */
  useOriginal(original) {
    const [time, playing] = [this.time, this.isPlaying];
    this.audio?.pause();
    this.original = original;
    if (this.row && playing) this.#start(this.#audioOf(this.row), time);
    this.parts.changed();
  }

  /** @param {boolean} repeat */
  useRepeat(repeat) {
    this.repeat = repeat;
    this.ready.forEach((audio) => { audio.loop = repeat; });
  }

  /** @param {Row} row */
  #urlOf(row) {
    return audioUrl(row.id, this.original);
  }

  /** @param {Row} row  @returns {HTMLAudioElement} */
  #audioOf(row) {
    const url = this.#urlOf(row);
    let audio = this.ready.get(url);
    if (!audio) {
      audio = new Audio();
      audio.dataset.id = row.id;
      document.body.append(audio); // without controls it is not shown
      audio.preload = "auto";
      audio.loop = this.repeat;
      audio.src = url;
      for (const name of ["play", "pause", "ended", "durationchange"]) {
        audio.addEventListener(name, () => audio === this.audio && this.#tick());
      }
      audio.addEventListener("error", () => audio === this.audio && this.parts.failed(row));
    }
    this.ready.delete(url);
    this.ready.set(url, audio);
    for (const [old, kept] of this.ready) {
      if (this.ready.size <= READY_STEMS) break;
      if (kept !== this.audio) this.#forget(old, kept);
    }
    return audio;
  }

  /** @param {string} url  @param {HTMLAudioElement} audio */
  #forget(url, audio) {
    audio.removeAttribute("src"); // which stops its download
    audio.remove();
    this.ready.delete(url);
  }

  /** @param {HTMLAudioElement} audio  @param {number} time in seconds */
  #start(audio, time) {
    audio.currentTime = time;
    // A second click interrupts the first one's play(), which is no error. `error` reports what cannot be played.
    audio.play().catch(() => {});
  }

  #tick() {
    this.parts.changed();
    if (this.isPlaying) {
      this.frame ||= requestAnimationFrame(() => {
        this.frame = 0;
        this.#tick();
      });
    }
  }
}
