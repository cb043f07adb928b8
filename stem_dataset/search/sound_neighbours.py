"""The nearest of some stems to many others, by sound: what the map is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from stem_dataset.datatypes import Float32
from stem_dataset.search.rank import Positions

# A row is compared with this many of the stems: those that are nearest to the centre of the row's group. Up to this
# many stems, the comparison is exact.
CANDIDATES = 2_048
# Groups of about this size.
GROUP_ROWS = 256
# The centres no longer move much after these rounds.
ROUNDS = 8
# A block of rows has 67 MB, and so have its products with the candidates of one group at most.
BLOCK_ROWS = 32_768
PRODUCTS = 2**24
# With more, the places of others are drawn together; with one, they lie upon each other.
PLACED_AMONG = 5
NO_DISTANCE = 1e-3
# float32 products of equal vectors may miss 1 by this.
ROUNDING = 1e-6


class Neighbours:
    """The stems among which neighbours are looked for.

    vectors: (n, 512), of unit length, in memory

    They are put into groups by k-means on the sphere (Dhillon and Modha, "Concept Decompositions for Large Sparse Text
    Data Using Clustering", Machine Learning 42, 2001). All products of a million rows with 50,000 stems would take many
    minutes. Products with the candidates of the row's own group take a twenty-fourth of that, and miss few neighbours.
    """

    def __init__(self, vectors: Float32, seed: int) -> None:
        self.vectors = vectors
        groups = min(1, len(vectors)) if len(vectors) <= CANDIDATES else len(vectors) // GROUP_ROWS
        self.centres = _centres(vectors, groups, np.random.default_rng(seed))
        count = min(CANDIDATES, len(vectors))
        self.candidates = [_highest(centre @ vectors.T, count) for centre in self.centres]

    def nearest(self, rows: Float32, count: int) -> tuple[Positions, Float32]:
        """Return the indexes of the nearest `count` stems to each of `rows`, and their distances, both (m, count).

        rows: (m, 512), of unit length; m of `BLOCK_ROWS` at most is meant
        A distance is 1 - cosine, from 0 to 2. The nearest comes first.
        """
        count = min(count, len(self.vectors))
        indexes = np.empty((len(rows), count), np.int64)
        distances = np.empty((len(rows), count), np.float32)
        groups = np.argmax(rows @ self.centres.T, axis=1)
        for group in np.unique(groups).tolist():
            candidates = self.candidates[group]
            vectors = self.vectors[candidates]
            members = np.flatnonzero(groups == group)
            step = max(1, PRODUCTS // len(candidates))
            for part in (members[start : start + step] for start in range(0, len(members), step)):
                products = rows[part] @ vectors.T
                chosen = _highest(products, count)
                cosines = np.take_along_axis(products, chosen, axis=1)
                order = np.argsort(-cosines, axis=1, kind="stable")
                indexes[part] = candidates[np.take_along_axis(chosen, order, axis=1)]
                distances[part] = 1 - np.take_along_axis(cosines, order, axis=1)
        distances[distances < ROUNDING] = 0
        return indexes, distances


def place_among(neighbours: Neighbours, places: Float32, rows: Float32) -> Float32:
    """Return the place on the map, (m, 2), of each of `rows`, (m, 512): amid its nearest stems.

    places: (n, 2), of the stems

    It is the mean of the places of the nearest 5 stems, weighted by 1 / (distance + 0.001)² (Shepard's interpolation).
    What is the same as a stem lands on it, and nothing lands outside of where the stems are.
    """
    indexes, distances = neighbours.nearest(rows, PLACED_AMONG)
    weights = 1 / np.square(distances + NO_DISTANCE)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray((weights[..., None] * places[indexes]).sum(axis=1), np.float32)


def blocks(positions: Positions) -> Iterator[Positions]:
    """Yield `positions` in blocks whose vectors fit into memory."""
    for start in range(0, len(positions), BLOCK_ROWS):
        yield positions[start : start + BLOCK_ROWS]


def nearest_of_each(
    neighbours: Neighbours, count: int, advance: Callable[[int], None]
) -> tuple[npt.NDArray[np.int32], Float32]:
    """Return the nearest `count` stems to each of the stems themselves, as `Neighbours.nearest` does.

    Each one's nearest is itself, with distance 0, also where others are the same. `advance` is called with the rows
    that are done.
    """
    stems = len(neighbours.vectors)
    found, distances = [], []
    for block in blocks(np.arange(stems)):
        indexes, apart = neighbours.nearest(neighbours.vectors[block], count)
        # Rounding, or a copy, may have put it elsewhere.
        places = np.where(indexes == block[:, None], -1, np.arange(indexes.shape[1]))
        others = np.argsort(places, axis=1)[:, : indexes.shape[1]]
        found.append(np.take_along_axis(indexes, others, axis=1).astype(np.int32))
        distances.append(np.take_along_axis(apart, others, axis=1))
        found[-1][:, 0], distances[-1][:, 0] = block, 0
        advance(len(block))
    return np.concatenate(found), np.concatenate(distances)


def _highest(products: Float32, count: int) -> Positions:
    """Return the indexes of the `count` highest along the last axis, in no order."""
    size = products.shape[-1]
    if count == size:
        return np.broadcast_to(np.arange(size), products.shape)
    return np.argpartition(products, size - count, axis=-1)[..., size - count :]


def _centres(vectors: Float32, count: int, random: np.random.Generator) -> Float32:
    """Return the centres of groups, (count, 512), of unit length."""
    centres = vectors[np.sort(random.permutation(len(vectors))[:count])]
    for _ in range(ROUNDS if count > 1 else 0):
        groups = np.argmax(vectors @ centres.T, axis=1)
        order = np.argsort(groups, kind="stable")
        filled, starts = np.unique(groups[order], return_index=True)
        sums = np.add.reduceat(vectors[order], starts, axis=0)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # A group without members keeps its centre.
        centres[filled] = sums / np.maximum(lengths, ROUNDING)
    return centres
