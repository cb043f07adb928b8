/**
 * The page: what is asked for is in the address; it goes to the server, and comes back into list, charts and map.
 *
 *   field, chip, chart, map, key ──► change(…) ──► address ──► search() ──► list, charts, map
 *
 * Each part is a module that knows nothing of the others.
 *
 * @typedef {import("./api.js").Row} Row
 * @typedef {import("./query.js").Query} Query
 */

import * as api from "./api.js";
import { chipsOf, showChips } from "./chips.js";
import { edit, isEditing, stopEditing } from "./edit.js";
import { Filters } from "./filters.js";
import { byId, colourOf, countText, element, lengthText, nameColours } from "./format.js";
import { Charts } from "./histograms.js";
import { bindingsOf, listenerOf, showKeys } from "./keys.js";
import { List } from "./list.js";
import { StemMap } from "./map.js";
import { closeMenus } from "./menus.js";
import { nameOfId, nameOfPosition, noteName } from "./names.js";
import { outlineOf, outlineText, positionsWithin } from "./outline.js";
import { Player } from "./player.js";
import { showStars, showStem } from "./playing.js";
import { bodyOf, emptyQuery, hashOf, queryOf } from "./query.js";
import { fillRow, isCorrectable, newRow } from "./rows.js";
import { copyText, dragOut } from "./share.js";
import { showSort, sortAfterClick } from "./sort.js";
import { listenToTabs, press, showView } from "./views.js";
import { Waveform } from "./waveform.js";

const TYPING_MS = 220;
// CLAP embeds each new text, and takes seconds to load for the first: it need not see every letter.
const TYPING_FOR_CLAP_MS = 700;
const MESSAGE_MS = 8_000;
const SLOW_MS = 400;

/** @type {import("./api.js").Library|null} */ let library = null;
let query = queryOf(location.hash);
/** @type {import("./api.js").Result|null} */ let result = null;
/** By index in the result. @type {Promise<Uint32Array>|null} */ let positions = null;
/** @type {number|null} */ let selectedOnMap = null;
let searching = new AbortController();
let isTyping = false;
let messageTimer = 0;

// -- what is asked for ------------------------------------------------------------------------------------------------

/**
 * Ask for something else.
 *
 * @param {Partial<Query>} changed
 * @param {boolean} typing all letters of a word make one entry in the history
 */
function change(changed, typing = false) {
  query = { ...query, ...changed };
  const address = hashOf(query) || location.pathname;
  if (typing && isTyping) history.replaceState(null, "", address);
  else if (hashOf(query) !== location.hash) history.pushState(null, "", address);
  isTyping = typing;
  search();
}

/** @param {"like"|"unlike"} part */
function askByCurrent(part) {
  const row = player.row;
  if (!row) return say("Choose a stem first.");
  noteName(row);
  const other = part === "like" ? "unlike" : "like";
  const without = (/** @type {string[]} */ ids) => ids.filter((id) => id !== row.id);
  return change({ [part]: [...without(query[part]), row.id], [other]: without(query[other]), sort: "" });
}

async function search() {
  searching.abort();
  searching = new AbortController();
  const { signal } = searching;
  showQuery();
  byId("grid").setAttribute("aria-busy", "true");
  const slow = setTimeout(() => showNotes(["Searching …"], false), SLOW_MS); // new words may have to load CLAP first
  try {
    const within = await positionsOfOutline();
    if (signal.aborted) return;
    const found = await api.search(bodyOf(query, within), signal);
    if (signal.aborted) return;
    result = found;
    // The database has changed: the outline's stems and the map have other positions now.
    if (found.state !== library?.state) await beginAnew();
    else showResult(found, within);
  } catch (error) {
    if (/** @type {Error} */ (error).name !== "AbortError") showNotes([/** @type {Error} */ (error).message], true);
  } finally {
    clearTimeout(slow);
    if (!signal.aborted) byId("grid").removeAttribute("aria-busy");
  }
}

/** @returns {Promise<number[]|null>} the stems within the outline on the map; null without one */
async function positionsOfOutline() {
  const outline = outlineOf(query.outline);
  if (!outline.length) {
    selectedOnMap = null;
    return null;
  }
  const within = positionsWithin(await map.pointsSoon(), outline);
  selectedOnMap = within.length;
  return within;
}

// -- what is shown ----------------------------------------------------------------------------------------------------

function showQuery() {
  const search = byId("search");
  if (document.activeElement !== search || !isTyping) search.value = query.text;
  filters.show();
  const chips = chipsOf(query, (id) => nameOfId(id, showQuery), selectedOnMap);
  showChips(byId("chips"), chips, change, () => change(emptyQuery()));
  byId("listen").setAttribute("aria-pressed", String(query.needs_listening));
  showView(query.quarantine, () => list.measure());
  document.title = query.text ? `${query.text} – Stems` : "Stems";
  showSort(byId("head"), query.sort);
}

/** @param {import("./api.js").Result} found  @param {number[]|null} within */
function showResult(found, within) {
  const all = library?.rows ?? found.rows;
  const isFiltered = found.rows !== all;
  byId("count").textContent = isFiltered ? `${found.rows.toLocaleString("en")} of ${countText(all)}` : countText(all);
  showNotes(found.notes, false);
  showQuery(); // the number on the map is known now
  byId("empty").hidden = found.rows > 0;
  const emptyText = "The database is empty. Fill it with prepare_dataset_sql.py.";
  byId("empty").textContent = all ? "No stem passes. Remove a filter above." : emptyText;
  byId("export-m3u").href = api.exportUrl(found.result, "m3u");
  byId("export-csv").href = api.exportUrl(found.result, "csv");
  stopEditing(); // its row goes
  list.show(found.rows);
  if (found.rows) list.rowSoon(0).then((row) => player.prepare(row)); // it is likely to be heard first
  charts.show(found.histograms);
  positions = null;
  const outline = within ? outlineOf(query.outline) : [];
  if (!isFiltered) map.show(null, outline);
  // Without an answer, the map stays as it was.
  else resultPositions().then((ones) => result === found && map.show(ones, outline)).catch(() => {});
}

/** @returns {Promise<Uint32Array>} */
function resultPositions() {
  positions ??= api.resultPositions(/** @type {import("./api.js").Result} */ (result).result);
  return positions;
}

/** @param {string[]} notes  @param {boolean} isError */
function showNotes(notes, isError) {
  byId("notes").classList.toggle("error", isError);
  byId("notes").replaceChildren(...notes.map((note) => element("span", {}, note)));
}

/** @param {string} text a short message beside the player */
function say(text) {
  byId("message").textContent = text;
  clearTimeout(messageTimer);
  messageTimer = setTimeout(() => { byId("message").textContent = ""; }, MESSAGE_MS);
}

// -- the list ---------------------------------------------------------------------------------------------------------

const list = new List(byId("grid"), byId("scroller"), byId("spacer"), {
  newRow,
  fillRow,
  failed: (error) => say(error.message),
  fetchRows: async (from, count) => {
    const asked = /** @type {import("./api.js").Result} */ (result);
    try {
      return (await api.rows(asked.result, from, count)).rows;
    } catch (error) {
      // The server keeps some results only, and none of a database that has changed.
      if (/** @type {api.ServerError} */ (error).status === 410 && asked === result) await beginAnew();
      throw error;
    }
  },
});

/** Ask for the library, the map and the result again. */
async function beginAnew() {
  await loadLibrary();
  map.forget();
  await search();
}

/** Play the row at an index. @param {number} index */
async function playAt(index) {
  if (!list.rows) return;
  list.select(index);
  const wanted = list.current;
  const row = list.rowAt(wanted) ?? await list.rowSoon(wanted);
  if (!row || list.current !== wanted) return;
  player.play(row);
  showPlaying(row);
  ring(wanted);
  player.prepare(list.rowAt(wanted + 1));
}

/** @param {number} index */
async function ring(index) {
  const ones = await resultPositions().catch(() => null);
  if (ones && list.current === index) map.mark(ones[index] ?? -1);
}

/** @param {number} position a point of the map */
async function playPosition(position) {
  const index = (await resultPositions()).indexOf(position);
  if (index >= 0) return playAt(index);
  const [id] = await api.idsAt([position]);
  const row = await api.stem(id);
  player.play(row);
  showPlaying(row);
  return map.mark(position);
}

byId("scroller").addEventListener("click", (/** @type {MouseEvent} */ event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  const index = list.indexAt(target);
  if (index < 0) return;
  byId("grid").focus({ preventScroll: true });
  const stars = Number(target.dataset.stars);
  const row = list.rowAt(index);
  if (stars && row) rate(row, row.rating === stars ? null : stars);
  else playAt(index);
});
byId("scroller").addEventListener("dblclick", (/** @type {MouseEvent} */ event) => {
  const cell = /** @type {HTMLElement} */ (event.target).closest("[data-column]");
  const index = list.indexAt(/** @type {HTMLElement} */ (event.target));
  if (cell instanceof HTMLElement && index >= 0) correct(index, /** @type {any} */ (cell.dataset.column));
});
byId("scroller").addEventListener("dragstart", (/** @type {DragEvent} */ event) => {
  const row = list.rowAt(list.indexAt(/** @type {HTMLElement} */ (event.target)));
  if (row) dragOut(event, row);
});
byId("playing-name").addEventListener("dragstart", (/** @type {DragEvent} */ event) => {
  if (player.row) dragOut(event, player.row);
});
byId("head").addEventListener("click", (/** @type {Event} */ event) => {
  const column = /** @type {HTMLElement} */ (event.target).dataset.sort;
  if (column) change({ sort: sortAfterClick(query.sort, column) });
});

// -- ratings and corrections ------------------------------------------------------------------------------------------

/** @param {Row} row as the server has it now */
function showChanged(row) {
  list.update(row);
  if (player.row?.id === row.id) showPlaying(player.row = row);
}

/** @param {Row|null} row  @param {number|null} rating null removes it */
async function rate(row, rating) {
  if (!row) return say("Choose a stem first.");
  try {
    showChanged(await api.rate(row.id, rating));
    say(rating === null ? `Rating of ${row.name} removed` : `${row.name} rated ${rating} of 5`);
  } catch (error) {
    say(/** @type {Error} */ (error).message);
  }
}

/** Show a corrected category, which may be a new one, on the map too. */
async function recolour() {
  await loadLibrary();
  await map.recolour();
}

/**
 * Open a field for a correction.
 *
 * @param {number} index
 * @param {import("./edit.js").Column} column
 * @param {{given: string, message: string}|null} [refusal] what the server has just refused
 */
function correct(index, column, refusal = null) {
  const row = list.rowAt(index);
  if (!row || !isCorrectable(column)) return;
  list.select(index);
  const rowElement = /** @type {HTMLElement} */ (list.currentElement);
  edit(rowElement, row, column, {
    save: async (name, value) => {
      showChanged(await api.correct(row.id, name, value));
      if (name === "category") await recolour();
      say(`${row.name}: ${name} corrected`);
    },
    undo: async (name) => {
      showChanged(await api.correct(row.id, name, null));
      if (name === "category") await recolour();
      say(`${row.name}: the correction of ${name} is undone`);
    },
    refused: (name, given, error) => {
      if (isEditing() || list.rowAt(index)?.id !== row.id) say(`${row.name}: ${error.message}`);
      else correct(index, name, { given, message: error.message });
    },
    closed: () => {
      fillRow(rowElement, list.rowAt(index));
      byId("grid").focus({ preventScroll: true });
    },
    next: (name) => correct(index, name),
  }, refusal);
}

// -- the player -------------------------------------------------------------------------------------------------------

const waveform = new Waveform(byId("waveform"), {
  fetchPeaks: api.waveform,
  seek: (fraction) => player.seek(fraction),
});
const player = new Player({
  changed: () => {
    byId("play").setAttribute("aria-label", player.isPlaying ? "Stop" : "Play");
    byId("play").classList.toggle("playing-now", player.isPlaying);
    waveform.at(player.time, player.duration);
    byId("time").textContent = player.row ? `${lengthText(player.time)} / ${lengthText(player.duration)}` : "";
  },
  failed: (row) => say(row.audio === null
    ? `${row.name}: there is no WAV, and a browser cannot play the original`
    : `${row.name} cannot be played: its WAV, or the page's server, may be gone`),
});

/** @param {Row} row */
function showPlaying(row) {
  showStem(row);
  showStars(row, (rating) => rate(player.row, rating));
  waveform.show(row.id);
}

async function copyPath() {
  const row = player.row;
  if (!row) return say("Choose a stem first.");
  return say(await copyText(row.path) ? `Copied: ${row.path}` : "The browser does not allow copying");
}

function toggleOriginal() {
  player.useOriginal(!player.original);
  press(byId("original"), player.original);
  player.prepare(list.rowAt(list.current + 1));
}

function toggleRepeat() {
  player.useRepeat(!player.repeat);
  press(byId("repeat"), player.repeat);
}

byId("play").addEventListener("click", () => player.toggle());
byId("like").addEventListener("click", () => askByCurrent("like"));
byId("unlike").addEventListener("click", () => askByCurrent("unlike"));
byId("copy").addEventListener("click", copyPath);
byId("original").addEventListener("click", toggleOriginal);
byId("repeat").addEventListener("click", toggleRepeat);

// -- the other views --------------------------------------------------------------------------------------------------

const toggleQuarantine = () => change({ quarantine: !query.quarantine });

const toggleListen = () => change({ needs_listening: !query.needs_listening });

byId("listen").addEventListener("click", toggleListen);
byId("quarantine-toggle").addEventListener("click", toggleQuarantine);
byId("help").addEventListener("click", () => showKeys(bindings));
byId("skip").addEventListener("click", (/** @type {Event} */ event) => {
  event.preventDefault(); // the address is the query's
  byId("grid").focus();
});
closeMenus();
listenToTabs(() => {
  if (query.quarantine) change({ quarantine: false });
  else list.measure();
});

// -- search, charts, map ----------------------------------------------------------------------------------------------

const filters = new Filters((changed) => change(changed), () => query);
const charts = new Charts(
  { bpm: byId("chart-bpm"), seconds: byId("chart-seconds"), category: byId("chart-category"), key: byId("chart-key") },
  (changed) => change(changed),
);
let typingTimer = 0;
byId("search").addEventListener("input", () => {
  clearTimeout(typingTimer);
  const wait = library?.understands_texts ? TYPING_FOR_CLAP_MS : TYPING_MS;
  typingTimer = setTimeout(() => change({ text: byId("search").value, sort: "" }, true), wait);
});
byId("search").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
  if (event.key === "ArrowDown" || (event.key === "Escape" && !byId("search").value)) byId("grid").focus();
});
byId("search-form").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  clearTimeout(typingTimer);
  change({ text: byId("search").value, sort: "" }, isTyping);
  byId("grid").focus();
});
window.addEventListener("popstate", () => {
  query = queryOf(location.hash);
  isTyping = false;
  search();
});

const bindings = bindingsOf({
  step: (rows) => playAt(list.current < 0 ? 0 : list.current + rows),
  page: (pages) => playAt(list.current + pages * list.rowsInView),
  playFirst: () => playAt(0),
  playLast: () => playAt(list.rows - 1),
  toggle: () => (player.row ? player.toggle() : playAt(0)),
  seek: (share) => player.seek(player.time / player.duration + share),
  rate: (rating) => rate(player.row, rating),
  correct: (column) => correct(list.current, column),
  like: () => askByCurrent("like"),
  unlike: () => askByCurrent("unlike"),
  copy: copyPath,
  original: toggleOriginal,
  repeat: toggleRepeat,
  listen: toggleListen,
  quarantine: toggleQuarantine,
  clear: () => change(emptyQuery()),
  search: () => byId("search").select(),
});
const onKey = listenerOf(bindings);
document.addEventListener("keydown", (event) => !event.defaultPrevented && !isEditing() && onKey(event));

const map = new StemMap({
  colours: () => (library?.categories ?? []).map(({ name }) => colourOf(name)),
  select: (outline) => change({ outline: outlineText(outline) }),
  play: (position) => { playPosition(position).catch((error) => say(error.message)); },
  nameOf: nameOfPosition,
  key: onKey,
});

async function loadLibrary() {
  const former = library?.categories;
  library = await api.library();
  nameColours(library.categories);
  const isSame = library.categories.every(({ name }, place) => name === former?.[place]?.name);
  if (former && !isSame) map.forget(); // it has the categories by their places
  filters.offer(library);
  byId("quarantined").textContent = library.quarantined ? String(library.quarantined) : "";
}

showStars(null, () => {});
loadLibrary().then(search).catch((error) => showNotes([error.message], true));
