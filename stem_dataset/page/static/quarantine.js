/** Shows the files that could not be read, and why. */

import { quarantine } from "./api.js";
import { byId, element } from "./format.js";

const PAGE = 200;

/** How many are shown, so that "more" goes on there. */
let shown = 0;

/** Show the first page, or the next one. @param {boolean} more  @throws {import("./api.js").ServerError} */
export async function showQuarantine(more) {
  if (!more) {
    shown = 0;
    byId("quarantine-rows").replaceChildren();
  }
  const { rows, total, note } = await quarantine(shown, PAGE);
  byId("quarantine-rows").append(...rows.map(rowOf));
  shown += rows.length;
  byId("quarantine-more").hidden = shown >= total || !rows.length;
  byId("quarantine-note").textContent = note || (total
    ? "These files could not be read, so they have no row. Repair them and run "
      + "prepare_dataset_sql.py --restore-quarantine, or delete them."
    : "Nothing is in quarantine: every file could be read.");
}

/** @param {{name: string, original_path: string, reason: string, error: string, when: string}} file */
function rowOf(file) {
  const reason = element("td", {}, element("strong", {}, file.reason ?? ""));
  if (file.error && file.error !== file.reason) reason.append(element("span", { class: "faint" }, file.error));
  return element("tr", {}, element("th", { scope: "row" }, element("bdi", {}, file.name ?? "")), reason,
    element("td", { class: "path" }, element("bdi", {}, file.original_path ?? "")),
    element("td", { class: "when" }, (file.when ?? "").slice(0, 16).replace("T", " ")));
}
