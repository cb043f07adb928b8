/**
 * The page: what is asked for is in the address; from there it goes to the server, and from there into list, charts and map.
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
import { COLUMNS, edit, isEditing } from "./edit.js";
import { Filters } from "./filters.js";
import { byId, bpmText, colourOf, countText, element, folderText, lengthText, nameColours } from "./format.js";
import { Charts } from "./histograms.js";
import { listenerOf, showKeys } from "./keys.js";
import { List } from "./list.js";
import { StemMap } from "./map.js";
import { outlineOf, outlineText, positionsWithin } from "./outline.js";
import { Player } from "./player.js";
import { showQuarantine } from "./quarantine.js";
import { bodyOf, emptyQuery, hashOf, queryOf } from "./query.js";
import { fillRow, isCorrectable, issueText, newRow } from "./rows.js";
import { copyText, dragOut } from "./share.js";
import { Waveform } from "./waveform.js";

const TYPING_MS = 220;
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
/** @type {Map<string, string>} */ const names = new Map();

// -- what is asked for ------------------------------------------------------------------------------------------------

/** Ask for something else. @param {Partial<Query>} changed  @param {boolean} typing one entry in the history for all letters */
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
  names.set(row.id, row.name);
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
    showResult(found, within);
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
  showChips(byId("chips"), chipsOf(query, nameOfId, selectedOnMap), change, () => change(emptyQuery()));
  byId("listen").setAttribute("aria-pressed", String(query.needs_listening));
  showView();
  document.title = query.text ? `${query.text} – Stems` : "Stems";
  const sort = query.sort || "rank"; // which is the best first, and so goes neither up nor down
  document.querySelectorAll("#head [data-sort]").forEach((button) => {
    const isSorted = /** @type {HTMLElement} */ (button).dataset.sort === sort;
    const head = /** @type {HTMLElement} */ (button.parentElement);
    if (isSorted && sort !== "rank") head.setAttribute("aria-sort", sort === "rating" ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

/** @param {string} id  @returns {string} the name of a stem; its id until the name has come */
function nameOfId(id) {
  if (!names.has(id)) {
    names.set(id, id);
    api.stem(id).then((row) => names.set(id, row.name)).then(showQuery).catch(() => {});
  }
  return /** @type {string} */ (names.get(id));
}

/** @param {import("./api.js").Result} found  @param {number[]|null} within */
function showResult(found, within) {
  const all = library?.rows ?? found.rows;
  byId("count").textContent = found.rows === all ? countText(all) : `${found.rows.toLocaleString("en")} of ${countText(all)}`;
  showNotes(found.notes, false);
  showQuery(); // the number on the map is known now
  byId("empty").hidden = found.rows > 0;
  byId("empty").textContent = all ? "No stem passes. Remove a filter above." : "The database is empty. Fill it with prepare_dataset_sql.py.";
  byId("export-m3u").href = api.exportUrl(found.result, "m3u");
  byId("export-csv").href = api.exportUrl(found.result, "csv");
  list.show(found.rows);
  charts.show(found.histograms);
  positions = null;
  const isFiltered = found.rows !== all;
  if (isFiltered) resultPositions().then((ones) => result === found && map.show(ones, outlineOf(query.outline))).catch(() => {});
  else map.show(null, within ? outlineOf(query.outline) : []);
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

/** Ask for the library and the result again. */
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

/** @param {number} position  @returns {Promise<string>} */
async function nameOfPosition(position) {
  const [id] = await api.idsAt([position]);
  if (!names.has(id)) names.set(id, (await api.stem(id)).name);
  return /** @type {string} */ (names.get(id));
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
byId("playing-name").addEventListener("dragstart", (/** @type {DragEvent} */ event) => player.row && dragOut(event, player.row));
byId("head").addEventListener("click", (/** @type {Event} */ event) => {
  const sort = /** @type {HTMLElement} */ (event.target).dataset.sort;
  if (sort) change({ sort: sort === "rank" || sort === query.sort ? "" : sort });
});

// -- ratings and corrections ------------------------------------------------------------------------------------------

/** @param {Row} row as the server has it now */
function showChanged(row) {
  list.update(row);
  if (player.row?.id !== row.id) return;
  player.row = { ...player.row, ...row, rank: player.row.rank, cosine: player.row.cosine };
  showPlaying(player.row);
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
      say(`${row.name}: ${name} corrected`);
    },
    undo: async (name) => {
      showChanged(await api.correct(row.id, name, null));
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

const waveform = new Waveform(byId("waveform"), { fetchPeaks: api.waveform, seek: (fraction) => player.seek(fraction) });
const player = new Player({
  changed: () => {
    byId("play").setAttribute("aria-label", player.isPlaying ? "Stop" : "Play");
    byId("play").classList.toggle("playing-now", player.isPlaying);
    waveform.at(player.time, player.duration);
    byId("time").textContent = player.row ? `${lengthText(player.time)} / ${lengthText(player.duration)}` : "";
  },
  failed: (row) => say(row.audio === null
    ? `${row.name}: there is no WAV, and a browser cannot play the original`
    : `${row.name} cannot be played: the file may be gone`),
});

/** @param {Row} row */
function showPlaying(row) {
  const name = byId("playing-name");
  name.replaceChildren(element("bdi", { title: row.path }, row.name));
  name.draggable = true;
  const facts = [row.category, row.bpm === null ? "" : `${bpmText(row.bpm)} BPM`, row.key, row.ok ? "" : issueText(row.quality), folderText(row.folder)];
  const dot = element("i", { class: "dot", "aria-hidden": "true" });
  dot.style.backgroundColor = colourOf(row.category);
  byId("playing-facts").replaceChildren(dot, element("bdi", {}, facts.filter(Boolean).join(" · ")));
  for (const id of ["play", "like", "unlike", "copy"]) byId(id).disabled = false;
  showStars(row);
  waveform.show(row.id);
}

/** @param {Row|null} row */
function showStars(row) {
  const rating = row?.rating ?? null;
  byId("stars").replaceChildren(...[0, 1, 2, 3, 4, 5].map((value) => {
    const isGiven = value === rating;
    const button = element("button", {
      type: "button", "aria-pressed": String(isGiven), "aria-label": `Rate ${value}`,
      class: value === 0 ? "zero" : value <= (rating ?? 0) ? "on" : "", title: isGiven ? "Remove the rating (Backspace)" : `Rate ${value} (${value})`,
    }, value === 0 ? "0" : "★");
    button.toggleAttribute("disabled", !row);
    button.addEventListener("click", () => rate(player.row, isGiven ? null : value));
    return button;
  }));
}

async function copyPath() {
  const row = player.row;
  if (!row) return say("Choose a stem first.");
  return say(await copyText(row.path) ? `Copied: ${row.path}` : "The browser does not allow copying");
}

/** @param {HTMLElement} button  @param {boolean} on */
const press = (button, on) => button.setAttribute("aria-pressed", String(on));

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

/** Show the quarantine or the list, as the address says. */
async function showView() {
  const panel = byId("quarantine-panel");
  if (panel.hidden !== query.quarantine) return;
  panel.hidden = !query.quarantine;
  byId("list-panel").hidden = query.quarantine;
  press(byId("quarantine-toggle"), query.quarantine);
  if (query.quarantine) {
    showTab("list");
    await showQuarantine().catch((error) => { byId("quarantine-note").textContent = error.message; });
  } else list.measure();
}

function toggleQuarantine() {
  change({ quarantine: !query.quarantine });
}

/** @param {string} tab what a narrow screen shows */
function showTab(tab) {
  document.body.dataset.tab = tab;
  document.querySelectorAll(".tabs [data-tab]").forEach((/** @type {any} */ button) => press(button, button.dataset.tab === tab));
  list.measure();
}

function toggleListen() {
  change({ needs_listening: !query.needs_listening });
}

byId("listen").addEventListener("click", toggleListen);
byId("quarantine-toggle").addEventListener("click", toggleQuarantine);
byId("quarantine-more").addEventListener("click", () => showQuarantine(true).catch((error) => say(error.message)));
byId("help").addEventListener("click", () => showKeys(BINDINGS));
byId("filters-toggle").addEventListener("click", () => {
  const opens = byId("filters").classList.toggle("open");
  byId("filters-toggle").setAttribute("aria-expanded", String(opens));
});
document.querySelector(".tabs")?.addEventListener("click", (event) => {
  const { tab } = /** @type {HTMLElement} */ (event.target).dataset;
  if (tab) showTab(tab);
});
byId("skip").addEventListener("click", (/** @type {Event} */ event) => {
  event.preventDefault(); // the address is the query's
  byId("grid").focus();
});
document.addEventListener("click", (event) => {
  document.querySelectorAll("details.menu[open]").forEach((menu) => {
    if (!menu.contains(/** @type {Node} */ (event.target))) menu.removeAttribute("open");
  });
});
document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
  if (!menu) return;
  menu.removeAttribute("open");
  menu.querySelector("summary")?.focus();
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
  typingTimer = setTimeout(() => change({ text: byId("search").value, sort: "" }, true), TYPING_MS);
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

/** @type {import("./keys.js").Binding[]} */
const BINDINGS = [
  { keys: ["ArrowDown", "j"], shown: "↓ j", text: "Play the next stem", act: () => playAt(list.current + 1) },
  { keys: ["ArrowUp", "k"], shown: "↑ k", text: "Play the previous stem", act: () => playAt(list.current < 0 ? 0 : list.current - 1) },
  { keys: ["PageDown"], shown: "Page_down", text: "Play a stem one page below", act: () => playAt(list.current + list.rowsInView) },
  { keys: ["PageUp"], shown: "Page_up", text: "Play a stem one page above", act: () => playAt(list.current - list.rowsInView) },
  { keys: ["Home"], shown: "Home", text: "Play the first stem", act: () => playAt(0) },
  { keys: ["End"], shown: "End", text: "Play the last stem", act: () => playAt(list.rows - 1) },
  { keys: [" "], shown: "Space", text: "Stop, or play on", act: () => (player.row ? player.toggle() : playAt(Math.max(0, list.current))) },
  { keys: ["ArrowLeft"], shown: "←", text: "Back by a tenth", act: () => player.seek(player.time / player.duration - 0.1) },
  { keys: ["ArrowRight"], shown: "→", text: "Forward by a tenth", act: () => player.seek(player.time / player.duration + 0.1) },
  { keys: ["0", "1", "2", "3", "4", "5"], shown: "0 … 5", text: "Rate the stem", act: (key) => rate(player.row, Number(key)) },
  { keys: ["Backspace", "Delete"], shown: "Backspace", text: "Remove the rating", act: () => rate(player.row, null) },
  { keys: ["Enter", "F2"], shown: "Enter", text: "Correct category, tempo and key; Tab goes on, Escape cancels", act: () => correct(list.current, COLUMNS[0]) },
  { keys: ["b"], shown: "b", text: "Correct the tempo", act: () => correct(list.current, "bpm") },
  { keys: ["g"], shown: "g", text: "Correct the key", act: () => correct(list.current, "key") },
  { keys: ["m"], shown: "m", text: "More like this", act: () => askByCurrent("like") },
  { keys: ["l"], shown: "l", text: "Less like this", act: () => askByCurrent("unlike") },
  { keys: ["c"], shown: "c", text: "Copy the path", act: copyPath },
  { keys: ["o"], shown: "o", text: "Hear the original, or the standardised WAV", act: toggleOriginal },
  { keys: ["r"], shown: "r", text: "Repeat", act: toggleRepeat },
  { keys: ["n"], shown: "n", text: "Show what needs a listen", act: toggleListen },
  { keys: ["q"], shown: "q", text: "Show the quarantine", act: toggleQuarantine },
  { keys: ["x"], shown: "x", text: "Remove all filters", act: () => change(emptyQuery()) },
  { keys: ["/"], shown: "/", text: "Search", act: () => byId("search").select() ?? byId("search").focus() },
  { keys: ["?"], shown: "?", text: "Show these keys", act: () => showKeys(BINDINGS) },
];
const onKey = listenerOf(BINDINGS);
document.addEventListener("keydown", (event) => !event.defaultPrevented && !isEditing() && onKey(event));

const map = new StemMap({
  colours: () => (library?.categories ?? []).map(({ name }) => colourOf(name)),
  select: (outline) => change({ outline: outlineText(outline) }),
  play: (position) => { playPosition(position).catch((error) => say(error.message)); },
  nameOf: nameOfPosition,
  key: onKey,
});

async function loadLibrary() {
  library = await api.library();
  nameColours(library.categories);
  filters.offer(library);
  byId("quarantined").textContent = library.quarantined ? String(library.quarantined) : "";
}

showStars(null);
loadLibrary().then(search).catch((error) => showNotes([error.message], true));
