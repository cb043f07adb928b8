"""The columns of all stems as arrays, to sort and count a million rows in milliseconds."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stem_dataset.datatypes import UNKNOWN_CATEGORY, Float32
from stem_dataset.music.key import KEY_NAMES
from stem_dataset.search.rank import Positions

# The code of what is not known.
NOT_KNOWN = -1
KEY_CODES = {name: code for code, name in enumerate(KEY_NAMES)}
RATINGS = range(6)
QUERY = """
SELECT position, bpm, duration_s, category, key, user_rating, is_loop, quality_ok, model FROM stems"""
ONE_ROW = np.dtype(
    [
        ("position", np.int64),
        ("bpm", np.float32),
        ("duration_s", np.float32),
        ("category", np.int16),
        ("key", np.int8),
        ("rating", np.int8),
        ("is_loop", np.int8),
        ("is_ok", np.bool_),
        ("model", np.int16),
    ]
)


@dataclass
class ColumnArrays:
    """The columns of the sidecar's rows, each an array of shape (rows,) in the order of the positions.

    bpm: beats per minute; NaN if it is not known
    duration_s: seconds
    category: a code, the place in `category_names`; -1 if it is not known
    key: the place in `KEY_NAMES`, 0 to 23; -1 if it is not known
    rating: 0 to 5; -1 if there is none
    is_loop: 1 for a loop, 0 for a one-shot, -1 if it is not known
    is_ok: whether the row has no quality issues
    model: the place of the row's model in `Sidecar.models`
    category_names: in the order of the alphabet; those that came after the arrays were loaded follow behind
    """

    bpm: Float32
    duration_s: Float32
    category: npt.NDArray[np.int16]
    key: npt.NDArray[np.int8]
    rating: npt.NDArray[np.int8]
    is_loop: npt.NDArray[np.int8]
    is_ok: npt.NDArray[np.bool_]
    model: npt.NDArray[np.int16]
    category_names: list[str]

    def __len__(self) -> int:
        return len(self.bpm)

    def refresh(self, connection: sqlite3.Connection, positions: Sequence[int]) -> None:
        """Read these rows again, after the owner has changed them in the sidecar."""
        query = f"{QUERY} WHERE position IN (SELECT value FROM json_each(?))"
        rows = connection.execute(query, (json.dumps(list(positions)),)).fetchall()
        self.category_names += sorted({row[3] for row in rows if _is_category(row[3])} - set(self.category_names))
        self._fill(_coded(rows, self.category_names, len(rows)))

    def _fill(self, rows: npt.NDArray[np.void]) -> None:
        for name in ONE_ROW.names or ():
            if name != "position":
                getattr(self, name)[rows["position"]] = rows[name]


def load_columns(connection: sqlite3.Connection) -> ColumnArrays:
    """Read the columns of all rows in the sidecar. A million rows take 2 seconds, and then 17 MB of memory."""
    count: int = connection.execute("SELECT count(*) FROM stems").fetchone()[0]
    distinct = (name for (name,) in connection.execute("SELECT DISTINCT category FROM stems"))
    names = sorted(name for name in distinct if _is_category(name))
    arrays = {name: np.empty(count, ONE_ROW[name]) for name in ONE_ROW.names or () if name != "position"}
    columns = ColumnArrays(**arrays, category_names=names)
    columns._fill(_coded(connection.execute(QUERY), names, count))
    return columns


def path_ranks(connection: sqlite3.Connection) -> npt.NDArray[np.int32]:
    """Return the place of each row, (rows,), in the order of the original files' paths, from 0.

    A million rows take a second.
    """
    ordered = connection.execute("SELECT position FROM stems ORDER BY original_file")
    positions: Positions = np.fromiter((position for (position,) in ordered), np.int64)
    ranks = np.empty(len(positions), np.int32)
    ranks[positions] = np.arange(len(positions), dtype=np.int32)
    return ranks


def _is_category(name: object) -> bool:
    return isinstance(name, str) and name != UNKNOWN_CATEGORY


def _coded(rows: Iterable[Sequence[Any]], category_names: Sequence[str], count: int) -> npt.NDArray[np.void]:
    """Return `count` rows of `QUERY` as an array, (count,), of `ONE_ROW`."""
    category_codes = {name: code for code, name in enumerate(category_names)}

    def coded() -> Iterator[tuple[Any, ...]]:
        for position, bpm, duration_s, category, key, rating, is_loop, is_ok, model in rows:
            yield (
                position,
                np.nan if bpm is None else bpm,
                duration_s,
                category_codes.get(category, NOT_KNOWN),
                KEY_CODES.get(key, NOT_KNOWN),
                # Someone may have written anything into these two.
                rating if rating in RATINGS else NOT_KNOWN,
                is_loop if is_loop in (0, 1) else NOT_KNOWN,
                is_ok,
                model,
            )

    return np.fromiter(coded(), ONE_ROW, count)
