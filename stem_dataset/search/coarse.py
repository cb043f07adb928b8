"""The nearest vectors, found through a coarse copy of a quarter of the size.

A query over a million vectors is bound by the memory that it reads: 2 GB. So each number is also kept as one of 255
steps, in a byte. These give each cosine with a known error at most; only vectors that could be among the best by it are
then compared in full. The result is that of comparing all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from stem_dataset.datatypes import EMBEDDING_SIZE, Float32
from stem_dataset.search.rank import Positions, exact_cosines

# A vector is about scale * codes. `error` is the most by which its cosine with any vector of unit length may be off.
ROW = np.dtype([("scale", "<f4"), ("error", "<f4"), ("codes", "i1", (EMBEDDING_SIZE,))])
STEPS = 127
# Sums of 512 float32 products are off by at most 512 * 2**-24 = 3.1e-5 of the product of both lengths (Higham,
# "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1). This leaves room for the roundings around them.
ROUNDING = 1e-4
# The bytes and their float32 copies, 2.5 MB, stay in the processor's cache.
BLOCK_ROWS = 1_024
# If a block's positions lie farther apart than this on average, their rows are copied out one by one.
SPARSE = 2

CoarseRows = npt.NDArray[np.void]


def coarse_of(vectors: Float32) -> CoarseRows:
    """Return the coarse copy, (N,) of `ROW`, of vectors, (N, 512).

    The error is the length of what rounding takes away, by the inequality of Cauchy and Schwarz. Of a vector that is
    not finite it is infinite.
    """
    rows = np.zeros(len(vectors), ROW)
    with np.errstate(all="ignore"):
        rows["scale"] = np.abs(vectors).max(axis=1, initial=0) / STEPS
        scales = np.where(rows["scale"] > 0, rows["scale"], 1)[:, np.newaxis]
        codes = np.rint(vectors / scales)
        rows["codes"] = codes
        exact = np.asarray(vectors, np.float64)
        error = np.linalg.norm(exact - codes * np.asarray(scales, np.float64), axis=1)
        rows["error"] = error + ROUNDING * np.linalg.norm(exact, axis=1)
    rows[~np.isfinite(rows["error"])] = (0, np.inf, np.zeros(EMBEDDING_SIZE))
    return rows


def best_cosines(
    vectors: Float32, coarse: CoarseRows, kept: Positions, query: Float32, count: int, also: Positions
) -> Float32:
    """Return the cosine of each row in `kept` with `query`, (512,), of unit length; exact where it matters.

    The `count` highest are exact, and so is every one that would share their places, and those of the rows in `also`.
    The others are lower than these `count`, and off by about 0.001, at most by their `error`. `kept` is in ascending
    order. `vectors`, (N, 512), and `coarse`, (N,), may be memory-mapped.
    """
    if count >= len(kept):
        return np.concatenate(
            [np.empty(0, np.float32), *(exact_cosines(vectors[some], query) for some in _blocks(kept))]
        )
    scores, errors = _coarse_cosines(coarse, kept, query)
    is_exact = np.zeros(len(kept), np.bool_)
    if count:
        least = np.partition(scores - errors, len(kept) - count)[len(kept) - count]
        is_exact = scores + errors >= least
    places = np.searchsorted(kept, also).clip(max=len(kept) - 1)
    is_exact[places[kept[places] == also]] = True
    for some in _blocks(np.flatnonzero(is_exact)):
        scores[some] = exact_cosines(vectors[kept[some]], query)
    return scores


def _coarse_cosines(coarse: CoarseRows, kept: Positions, query: Float32) -> tuple[Float32, Float32]:
    """Return the coarse cosines, (N,), of the rows in `kept`, and by how much they may be off."""
    scores, errors = np.empty(len(kept), np.float32), np.empty(len(kept), np.float32)
    numbers = np.empty((SPARSE * BLOCK_ROWS, EMBEDDING_SIZE), np.float32)
    start = 0
    for positions in _blocks(kept):
        first, last = int(positions[0]), int(positions[-1]) + 1
        is_dense = last - first <= SPARSE * len(positions)
        rows = coarse[first:last] if is_dense else coarse[positions]
        np.copyto(numbers[: len(rows)], rows["codes"])
        products = (numbers[: len(rows)] @ query) * rows["scale"]
        own = positions - first if is_dense else slice(None)
        some = slice(start, start + len(positions))
        scores[some], errors[some] = products[own], rows["error"][own]
        start += len(positions)
    return scores, errors


def _blocks(positions: Positions) -> Iterator[Positions]:
    return (positions[start : start + BLOCK_ROWS] for start in range(0, len(positions), BLOCK_ROWS))
