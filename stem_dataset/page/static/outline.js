/**
 * A selection on the map: an outline in the map's coordinates, short enough for the address, and the stems within it.
 *
 * @typedef {[number, number][]} Outline the corners
 */

const MOST_CORNERS = 60;

/** @param {Outline} corners  @returns {string} "x,y x,y …" with at most `MOST_CORNERS` of them */
export function outlineText(corners) {
  const step = Math.max(1, corners.length / MOST_CORNERS);
  const kept = [];
  for (let place = 0; place < corners.length; place += step) kept.push(corners[Math.floor(place)]);
  return kept.map((corner) => corner.map((value) => String(Number(value.toPrecision(5)))).join(",")).join(" ");
}

/** @param {string} text as from `outlineText`  @returns {Outline} empty if it is no outline */
export function outlineOf(text) {
  const corners = text.split(" ").map((corner) => /** @type {[number, number]} */ (corner.split(",").map(Number)));
  const isOutline = corners.length >= 3 && corners.every((one) => one.length === 2 && one.every(Number.isFinite));
  return isOutline ? corners : [];
}

/** @param {string} path of SVG, as plotly draws it: "M1,2L3,4…Z"  @returns {Outline} */
export function cornersOfPath(path) {
  return path.replace(/[MZ]/g, "").split("L").filter(Boolean)
    .map((corner) => /** @type {[number, number]} */ (corner.split(",").map(Number)));
}

/** @param {number} x0  @param {number} y0  @param {number} x1  @param {number} y1  @returns {Outline} */
export const cornersOfBox = (x0, y0, x1, y1) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];

/**
 * A point is within if a ray from it crosses the outline an odd number of times.
 *
 * @param {Float32Array} points x, y, x, y, …; NaN is never within
 * @param {Outline} outline
 * @returns {number[]} the positions of the points within, in ascending order
 */
export function positionsWithin(points, outline) {
  if (!outline.length) return [];
  const xs = outline.map(([x]) => x);
  const ys = outline.map(([, y]) => y);
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const found = [];
  for (let place = 0; place < points.length; place += 2) {
    const [x, y] = [points[place], points[place + 1]];
    if (x >= left && x <= right && y >= low && y <= high && isWithin(x, y, xs, ys)) found.push(place / 2);
  }
  return found;
}

/** @param {number} x  @param {number} y  @param {number[]} xs  @param {number[]} ys */
function isWithin(x, y, xs, ys) {
  let within = false;
  for (let one = 0, other = xs.length - 1; one < xs.length; other = one, one += 1) {
    const crosses = ys[one] > y !== ys[other] > y;
    if (crosses && x < ((xs[other] - xs[one]) * (y - ys[one])) / (ys[other] - ys[one]) + xs[one]) within = !within;
  }
  return within;
}
