/**
 * How the list is sorted: what the heads of its columns show, and what a click on one does.
 *
 * A sort is the name of a column, with "-" before it if the order is turned round. "" and "rank" are the best first.
 */

/** Mark the head of the column that sorts. @param {HTMLElement} heads  @param {string} sort */
export function showSort(heads, sort) {
  const column = sort.replace("-", "");
  // Ratings are sorted from the highest, all else from the lowest.
  const isDown = (column === "rating") !== sort.startsWith("-");
  heads.querySelectorAll("[data-sort]").forEach((button) => {
    const isSorted = /** @type {HTMLElement} */ (button).dataset.sort === column;
    const head = /** @type {HTMLElement} */ (button.parentElement);
    if (isSorted && column !== "rank") head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

/**
 * Return the sort after a click: the first sorts, the second turns the order round, the third undoes that.
 *
 * @param {string} sort  @param {string} column
 */
export function sortAfterClick(sort, column) {
  if (column === "rank" || sort === `-${column}`) return "";
  return sort === column ? `-${column}` : column;
}
