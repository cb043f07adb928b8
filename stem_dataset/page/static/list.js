/**
 * A list of any length that draws only the rows in view, and keeps one of them current.
 *
 * Rows have one height and come in pages from the server. Browsers cap an element's height (Firefox at 17.8 million
 * pixels, Chromium at 33.5 million), so beyond `TALLEST` the scroll bar is scaled, and the wheel moves true pixels.
 *
 * @typedef {import("./api.js").Row} Row
 */

const TALLEST = 8_000_000;
const PAGE = 200;
const KEPT_PAGES = 40;
const WAIT_MS = 40; // a scroll bar that is dragged passes thousands of pages that nobody wants to see

export class List {
  /**
   * @param {HTMLElement} grid has the focus, and scrolls `scroller`
   * @param {HTMLElement} scroller
   * @param {HTMLElement} spacer gives the scroll bar its length, and holds the rows
   * @param {{fetchRows: (from: number, count: number) => Promise<Row[]>, newRow: () => HTMLElement,
   *   fillRow: (element: HTMLElement, row: Row|undefined) => void, failed: (error: Error) => void}} parts
   */
  constructor(grid, scroller, spacer, parts) {
    this.grid = grid;
    this.scroller = scroller;
    this.spacer = spacer;
    this.parts = parts;
    this.rowHeight = 0; // in pixels, as the view and the top
    this.view = 0;
    this.scale = 1; // true pixels per pixel of the scroll bar
    this.rows = 0;
    this.current = -1;
    this.top = 0; // in true pixels
    this.expected = 0; // the scrollTop that we have set ourselves
    /** @type {Map<number, Row[]>} */ this.pages = new Map();
    /** @type {Map<number, Promise<void>>} */ this.coming = new Map();
    /** @type {Map<number, HTMLElement>} */ this.drawn = new Map();
    this.generation = 0;
    this.timer = 0;
    this.frame = 0;
    scroller.addEventListener("scroll", () => this.#scrolled());
    scroller.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    new ResizeObserver(() => this.measure()).observe(scroller);
    this.measure();
  }

  /** Read the row's height from the style sheet; narrow screens have taller rows. What was in view stays in view. */
  measure() {
    const first = this.rowHeight ? Math.round(this.top / this.rowHeight) : 0;
    const wasInView = this.current >= 0 && this.#distanceToView() === 0;
    this.rowHeight = parseFloat(getComputedStyle(this.grid).getPropertyValue("--row-height")) || 30;
    this.view = this.scroller.clientHeight;
    const full = this.rows * this.rowHeight;
    const height = Math.min(full, TALLEST);
    this.spacer.style.height = `${height}px`;
    this.scale = full > height ? (full - this.view) / Math.max(1, height - this.view) : 1;
    this.#moveTo(first * this.rowHeight);
    if (wasInView) this.#reveal();
  }

  /** Show another result from its first row. @param {number} rows */
  show(rows) {
    this.generation += 1;
    this.pages.clear();
    this.coming.clear();
    this.rows = rows;
    this.current = -1;
    this.top = 0;
    this.grid.setAttribute("aria-rowcount", String(rows + 1)); // the head is a row
    this.#clear();
    this.measure();
  }

  /** @param {number} index  @returns {Row|undefined} undefined until its page has come */
  rowAt(index) {
    return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
  }

  /** @param {number} index  @returns {Promise<Row|undefined>} undefined if another result has come meanwhile */
  async rowSoon(index) {
    const generation = this.generation;
    await this.#fetch(Math.floor(index / PAGE));
    return generation === this.generation ? this.rowAt(index) : undefined;
  }

  /** Make a row current and bring it into view. @param {number} index */
  select(index) {
    if (!this.rows) return;
    this.current = Math.max(0, Math.min(this.rows - 1, index));
    this.#reveal();
    this.draw();
  }

  /** @returns {number} pixels by which the current row is below the view; negative above it, 0 within */
  #distanceToView() {
    const above = this.current * this.rowHeight - this.top;
    return Math.min(0, above) || Math.max(0, above + this.rowHeight - this.view);
  }

  #reveal() {
    const distance = this.#distanceToView();
    if (distance) this.#moveTo(this.top + distance);
  }

  /** @returns {number} how many rows fit */
  get rowsInView() {
    return Math.max(1, Math.floor(this.view / this.rowHeight) - 1);
  }

  /** Replace a row whose values have changed, wherever it is. @param {Row} row */
  update(row) {
    for (const [page, rows] of this.pages) {
      const place = rows.findIndex((one) => one.id === row.id);
      if (place < 0) continue;
      rows[place] = { ...row, rank: rows[place].rank, cosine: rows[place].cosine };
      const element = this.drawn.get(page * PAGE + place);
      if (element) this.parts.fillRow(element, rows[place]);
    }
  }

  /** @param {string} id  @returns {number} the index of a row that has been fetched, else -1 */
  indexOf(id) {
    for (const [page, rows] of this.pages) {
      const place = rows.findIndex((one) => one.id === id);
      if (place >= 0) return page * PAGE + place;
    }
    return -1;
  }

  /** @param {Element} within  @returns {number} the index of the row that an element is in, else -1 */
  indexAt(within) {
    const row = within.closest("[data-index]");
    return row instanceof HTMLElement ? Number(row.dataset.index) : -1;
  }

  /** @returns {HTMLElement|undefined} */
  get currentElement() {
    return this.drawn.get(this.current);
  }

  draw() {
    const first = Math.max(0, Math.floor(this.top / this.rowHeight) - 2);
    const last = Math.min(this.rows - 1, Math.ceil((this.top + this.view) / this.rowHeight) + 2);
    for (const [index, element] of this.drawn) {
      // The current row stays, out of sight: aria-activedescendant names it, and it may be open for a correction.
      if ((index < first || index > last) && index !== this.current) {
        element.remove();
        this.drawn.delete(index);
      }
    }
    const origin = this.scroller.scrollTop - this.top;
    for (let index = first; index <= last; index += 1) this.#drawRow(index, origin);
    if (this.current >= 0) this.#drawRow(this.current, origin);
    this.grid.toggleAttribute("data-current", this.current >= 0);
    if (this.current >= 0) this.grid.setAttribute("aria-activedescendant", `row-${this.current}`);
    else this.grid.removeAttribute("aria-activedescendant");
    this.#fetchSoon(first, last);
  }

  /** @param {number} index  @param {number} origin where row 0 is in the spacer */
  #drawRow(index, origin) {
    const element = this.drawn.get(index) ?? this.#newRow(index);
    // Far rows are cut off: the current one may be 30 million pixels away, where layouts lose precision.
    const y = Math.max(-1_000, Math.min(TALLEST + 1_000, origin + index * this.rowHeight));
    element.style.transform = `translateY(${y}px)`;
    element.setAttribute("aria-selected", String(index === this.current));
  }

  /** @param {number} index */
  #newRow(index) {
    const element = this.parts.newRow();
    element.id = `row-${index}`;
    element.dataset.index = String(index);
    element.setAttribute("aria-rowindex", String(index + 2));
    element.classList.toggle("odd", index % 2 === 1);
    this.parts.fillRow(element, this.rowAt(index));
    this.drawn.set(index, element);
    this.spacer.append(element);
    return element;
  }

  #clear() {
    this.drawn.forEach((element) => element.remove());
    this.drawn.clear();
  }

  #scrolled() {
    if (Math.abs(this.scroller.scrollTop - this.expected) > 1) {
      this.expected = this.scroller.scrollTop;
      this.top = this.expected * this.scale;
    }
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (this.scale === 1 || event.ctrlKey) return;
    event.preventDefault();
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : this.rowHeight;
    this.#moveTo(this.top + event.deltaY * unit);
  }

  /** @param {number} top in true pixels */
  #moveTo(top) {
    this.top = Math.max(0, Math.min(this.rows * this.rowHeight - this.view, top));
    this.scroller.scrollTop = this.top / this.scale;
    this.expected = this.scroller.scrollTop; // rounded by the browser
    this.draw();
  }

  /** @param {number} first  @param {number} last */
  #fetchSoon(first, last) {
    clearTimeout(this.timer);
    /** @type {number[]} */ const missing = [];
    for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page += 1) {
      if (this.rows && !this.pages.has(page)) missing.push(page);
    }
    if (!missing.length) return;
    const wait = this.pages.size ? WAIT_MS : 0;
    this.timer = setTimeout(() => missing.forEach((page) => this.#fetch(page)), wait);
  }

  /** @param {number} page  @returns {Promise<void>} when the page is here, or cannot be had */
  #fetch(page) {
    if (this.pages.has(page)) return Promise.resolve();
    let coming = this.coming.get(page);
    if (!coming) {
      coming = this.#fetchNow(page);
      this.coming.set(page, coming);
    }
    return coming;
  }

  /** @param {number} page */
  async #fetchNow(page) {
    const generation = this.generation;
    try {
      const rows = await this.parts.fetchRows(page * PAGE, PAGE);
      if (generation !== this.generation) return;
      this.#forgetFar(page);
      this.pages.set(page, rows);
      for (const [index, element] of this.drawn) {
        if (Math.floor(index / PAGE) === page) this.parts.fillRow(element, this.rowAt(index));
      }
    } catch (error) {
      if (generation === this.generation) this.parts.failed(/** @type {Error} */ (error));
    } finally {
      if (generation === this.generation) this.coming.delete(page);
    }
  }

  /** Forget the pages farthest from `page`, so that a long scroll does not fill the memory. @param {number} page */
  #forgetFar(page) {
    if (this.pages.size < KEPT_PAGES) return;
    const own = Math.floor(this.current / PAGE);
    const far = [...this.pages.keys()].filter((one) => one !== own);
    far.sort((one, other) => Math.abs(other - page) - Math.abs(one - page));
    far.slice(0, KEPT_PAGES / 4).forEach((one) => this.pages.delete(one));
  }
}
