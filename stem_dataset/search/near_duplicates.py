"""Pairs of stems whose vectors are nearly the same.

A module of its own, because it compares all stems with each other, which no search does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stem_dataset.datatypes import Float32
from stem_dataset.search.rank import Positions, best

# A block of products has 2,048 x 2,048 float32, which are 17 MB.
BLOCK_ROWS = 2_048
# float32 products of equal vectors may miss 1 by this.
ROUNDING = 1e-6

# The cosine and the two positions.
Pair = tuple[float, int, int]


def near_pairs(
    vectors: Float32, kept: Positions, least: float, count: int, advance: Callable[[int], None]
) -> tuple[list[Pair], int]:
    """Return the nearest `count` pairs with a cosine of at least `least`, and the number of all such pairs.

    `vectors`, (N, 512), may be memory-mapped. `advance` is called with the rows that are done. The time grows with the
    square of the rows; the memory does not grow with the pairs.
    """
    found: list[Pair] = []
    total = 0
    bound = least - ROUNDING
    for start in range(0, len(kept), BLOCK_ROWS):
        rows = vectors[kept[start : start + BLOCK_ROWS]]
        for other in range(start, len(kept), BLOCK_ROWS):
            products = rows @ (rows if other == start else vectors[kept[other : other + BLOCK_ROWS]]).T
            if other == start:
                # Each pair once, and no stem with itself.
                products = np.where(np.tri(len(rows), dtype=np.bool_), -2, products)
            total += int(np.count_nonzero(products >= least - ROUNDING))
            firsts, seconds = np.nonzero(products >= bound)
            cosines = np.minimum(products[firsts, seconds], 1)
            # Among copies of one file, a block has millions of pairs.
            nearest = best(cosines, count)
            positions = (kept[start + firsts[nearest]].tolist(), kept[other + seconds[nearest]].tolist())
            found += zip(cosines[nearest].tolist(), *positions, strict=True)
            if len(found) > 4 * count:
                found = _nearest(found, count)
                bound = max(bound, found[-1][0])
        advance(len(rows))
    return _nearest(found, count), total


def _nearest(pairs: list[Pair], count: int) -> list[Pair]:
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:count]
