/** What is in sight: the list or the quarantine, and on a narrow screen the list, the map or the charts. */

import { byId } from "./format.js";
import { showQuarantine } from "./quarantine.js";

/** @param {HTMLElement} button  @param {boolean} on */
export const press = (button, on) => button.setAttribute("aria-pressed", String(on));

/** @param {boolean} isQuarantine else the list  @param {() => void} seen is called when the list is in sight again */
export async function showView(isQuarantine, seen) {
  const panel = byId("quarantine-panel");
  if (panel.hidden !== isQuarantine) return;
  panel.hidden = !isQuarantine;
  byId("list-panel").hidden = isQuarantine;
  press(byId("quarantine-toggle"), isQuarantine);
  if (!isQuarantine) {
    seen();
    return;
  }
  showTab("list");
  await showPage(false);
}

byId("quarantine-more").addEventListener("click", () => showPage(true));

/** @param {boolean} more else the first page */
async function showPage(more) {
  await showQuarantine(more).catch((error) => { byId("quarantine-note").textContent = error.message; });
}

/** @param {string} tab */
function showTab(tab) {
  document.body.dataset.tab = tab;
  document.querySelectorAll(".tabs [data-tab]").forEach((/** @type {any} */ button) => {
    press(button, button.dataset.tab === tab);
  });
}

/** @param {() => void} changed is called when another tab is shown */
export function listenToTabs(changed) {
  document.querySelector(".tabs")?.addEventListener("click", (event) => {
    const { tab } = /** @type {HTMLElement} */ (event.target).dataset;
    if (!tab) return;
    showTab(tab);
    changed();
  });
  byId("filters-toggle").addEventListener("click", () => {
    const opens = byId("filters").classList.toggle("open");
    byId("filters-toggle").setAttribute("aria-expanded", String(opens));
  });
}
