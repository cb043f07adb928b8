/**
 * Takes stems out of the page: a file by dragging, a path by copying.
 *
 * @typedef {import("./api.js").Row} Row
 */

import { fileUrl } from "./api.js";

/**
 * Chromium and what is made of it write the file where it is dropped; others drop its address.
 *
 * @param {DragEvent} event
 * @param {Row} row
 */
export function dragOut(event, row) {
  const data = event.dataTransfer;
  if (!data) return;
  const url = fileUrl(row.id);
  // The fields of DownloadURL are separated by colons, and a file name has no slash.
  const name = row.name.replace(/[:/\\\u0000-\u001f\u007f]/g, "_");
  data.effectAllowed = "copy";
  data.setData("DownloadURL", `application/octet-stream:${name}:${url}`);
  data.setData("text/uri-list", url);
  data.setData("text/plain", row.path);
}

/** @param {string} text  @returns {Promise<boolean>} whether the browser has let us */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyOldWay(text);
  }
}

/** Without the permission for the clipboard, a selected text can still be copied. @param {string} text */
function copyOldWay(text) {
  const focused = /** @type {HTMLElement|null} */ (document.activeElement);
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}
