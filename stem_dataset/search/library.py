"""The stems of a database as a search sees them: filtered, ranked and described."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stem_dataset.datatypes import Float32
from stem_dataset.search.query import Filters
from stem_dataset.search.rank import Positions, best, cosines, fused
from stem_dataset.search.sidecar import Sidecar
from stem_dataset.search.text_index import matches

# This many of each ranking are fused. Further down, a rank adds less than a seventeenth of what the first adds.
FUSED_DEPTH = 1_000
HIT_COLUMNS = (
    "position, id, original_file, wav, sha256, category, bpm, key, tags, user_rating, quality_ok, duration_s, is_loop, "
    "quality_issues, corrected"
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A stem that was found. What is not known is None.

    original_file, wav: bytes that are not UTF-8 are surrogates
    cosine: with the query vector; None if the search has none, or the stem's vector is of another model
    quality_issues: why quality_ok is False
    corrected: the columns that show a correction of the owner
    """

    rank: int
    cosine: float | None
    id: str
    original_file: str
    wav: str | None
    sha256: str
    category: str
    bpm: float | None
    key: str | None
    tags: tuple[str, ...]
    user_rating: int | None
    quality_ok: bool
    seconds: float
    is_loop: bool | None
    quality_issues: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        return os.path.basename(self.original_file)

    @property
    def folder(self) -> str:
        return os.path.dirname(self.original_file)


@dataclass(frozen=True)
class Ranking:
    """The positions of what was found, the best first; and the cosines, (N,), of the positions in `compared`, (N,)."""

    positions: list[int]
    compared: Positions
    cosines: Float32

    def cosines_of(self, positions: Sequence[int]) -> list[tuple[int, float | None]]:
        """Return `positions` with their cosines; None for those that are not compared."""
        return cosines_at(self.compared, self.cosines, positions)


class Library:
    """A database's stems, each named by its position in the sidecar."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.vectors = sidecar.vectors
        self.connection = sidecar.connection
        self.models = sidecar.models
        # While --re-embed is not done, a database has vectors of two models. Those of the more common one are used.
        self.model = max(range(len(self.models)), key=lambda model: self.models[model][1], default=0)

    @property
    def embedding_model(self) -> str:
        """The model whose vectors are compared; '' in an empty database."""
        return self.models[self.model][0] if self.models else ""

    def rows_of_other_models(self) -> int:
        """Return how many rows have vectors that are not compared."""
        return len(self.vectors) - (self.models[self.model][1] if self.models else 0)

    def filtered(self, filters: Filters) -> Positions:
        """Return the positions of the stems that pass, in ascending order."""
        condition, values = filters.condition()
        if not values and condition == "1":
            return np.arange(len(self.vectors))
        rows = self.connection.execute(f"SELECT position FROM stems WHERE {condition}", values)
        # SQLite may return them in the order of the index.
        return np.sort(np.fromiter((position for (position,) in rows), np.int64))

    def comparable(self, kept: Positions) -> Positions:
        """Return those of `kept` whose vectors are of the model."""
        if not self.rows_of_other_models():
            return kept
        rows = self.connection.execute("SELECT position FROM stems WHERE model = ? ORDER BY position", (self.model,))
        return np.intersect1d(kept, np.fromiter((position for (position,) in rows), np.int64), assume_unique=True)

    def by_path(self, filters: Filters, count: int) -> list[Hit]:
        """Return the first `count` of the stems that pass, in the order of their paths."""
        condition, values = filters.condition()
        query = f"SELECT position FROM stems WHERE {condition} ORDER BY original_file LIMIT ?"
        return self.hits([position for (position,) in self.connection.execute(query, (*values, count))])

    def search(self, kept: Positions, text: str | None, vector: Float32 | None, count: int) -> list[Hit]:
        """Return the best `count` of the stems in `kept`, the best first.

        With a `text`, the names rank them. With a `vector`, (512,), their cosines with it do. With both, the two
        rankings are fused. Equally good names are ranked by cosine, or without a vector by path.
        """
        ranking = self.ranking(kept, text, vector, count)
        chosen = ranking.positions[:count]
        return self.hits(chosen, dict(ranking.cosines_of(chosen)))

    def ranking(self, kept: Positions, text: str | None, vector: Float32 | None, count: int) -> Ranking:
        """Return the best of the stems in `kept`, as `search` does, and the cosines of all that have one.

        Of each ranking that is fused, the best `count` take part, or more.
        """
        depth = max(FUSED_DEPTH, count)
        named = self._by_name(kept, text, depth) if text is not None else []
        if vector is None:
            paths = self._paths(position for position, _ in named)
            return Ranking(sorted_by(named, paths), kept[:0], np.empty(0, np.float32))
        kept = self.comparable(kept)
        scores = cosines(self.vectors, kept, vector)
        ranked = kept[best(scores, depth if named else count)].tolist()
        farness = {position: -(cosine or 0.0) for position, cosine in cosines_at(kept, scores, [p for p, _ in named])}
        return Ranking(fused([ranked, sorted_by(named, farness)]), kept, scores)

    def _by_name(self, kept: Positions, text: str, count: int) -> list[tuple[int, float]]:
        rows = len(self.vectors)
        if len(kept) == rows:
            return matches(self.connection, text, rows, count)
        passing = np.zeros(rows, np.uint8)
        passing[kept] = 1
        return matches(self.connection, text, rows, count, passing.tobytes())

    def _paths(self, positions: Iterable[int]) -> dict[int, bytes]:
        query = "SELECT position, original_file FROM stems WHERE position IN (SELECT value FROM json_each(?))"
        return dict(self.connection.execute(query, (json.dumps(list(positions)),)).fetchall())

    def hits(
        self, positions: Sequence[int], scores: dict[int, float | None] | None = None, first_rank: int = 1
    ) -> list[Hit]:
        """Return the stems at `positions`, in that order."""
        query = f"SELECT {HIT_COLUMNS} FROM stems WHERE position IN (SELECT value FROM json_each(?))"
        rows = {row[0]: row[1:] for row in self.connection.execute(query, (json.dumps(list(positions)),))}
        scores = scores or {}
        return [
            hit_of(rank, scores.get(position), rows[position]) for rank, position in enumerate(positions, first_rank)
        ]

    def position_of(self, name: str) -> int | None:
        """Return the position of the stem with this id, original file or WAV."""
        row = self.connection.execute("SELECT position FROM stems WHERE id = CAST(? AS TEXT)", (os.fsencode(name),))
        found = row.fetchone()
        if found is None:
            # Also of a file that is gone.
            paths = [os.fsencode(path) for path in (os.path.abspath(name), os.path.realpath(name))]
            query = "SELECT position FROM stems WHERE original_file IN (?, ?) OR wav IN (?, ?)"
            found = self.connection.execute(query, [*paths, *paths]).fetchone()
        return int(found[0]) if found else None

    def positions_of(self, ids: Sequence[str]) -> Positions:
        """Return the positions of the stems with these ids, in ascending order; an unknown id has none."""
        query = "SELECT position FROM stems WHERE id IN (SELECT value FROM json_each(?)) ORDER BY position"
        rows = self.connection.execute(query, (json.dumps(list(ids)),))
        return np.fromiter((position for (position,) in rows), np.int64)

    def vector_at(self, position: int) -> Float32 | None:
        """Return the vector, (512,), at a position; None if it is of another model."""
        (model,) = self.connection.execute("SELECT model FROM stems WHERE position = ?", (position,)).fetchone()
        return np.array(self.vectors[position]) if model == self.model else None

    def values_of(self, column: str) -> list[str]:
        """Return the values that a column has."""
        rows = self.connection.execute(f"SELECT DISTINCT {column} FROM stems WHERE {column} IS NOT NULL")
        return sorted(value for (value,) in rows)


def sorted_by(named: Sequence[tuple[int, float]], order: Mapping[int, Any]) -> list[int]:
    """Return the positions in `named`, the best first; equally good ones in `order`."""
    return [position for position, _ in sorted(named, key=lambda match: (match[1], order[match[0]]))]


def cosines_at(kept: Positions, scores: Float32, positions: Sequence[int]) -> list[tuple[int, float | None]]:
    """Return `positions` with their scores; None for those that are not in `kept`."""
    places = np.searchsorted(kept, np.asarray(positions, np.int64))
    return [
        (position, round(float(scores[place]), 6) if place < len(kept) and kept[place] == position else None)
        for place, position in zip(places.tolist(), positions, strict=True)
    ]


def texts_of(text: str | None) -> tuple[str, ...]:
    """Return the texts in a JSON array; none if someone wrote something else."""
    try:
        tags = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(map(str, tags)) if isinstance(tags, list) else ()


def hit_of(rank: int, cosine: float | None, row: Sequence[Any]) -> Hit:
    """Return the hit of a row with `HIT_COLUMNS` but for the position."""
    stem_id, original_file, wav, sha256, category, bpm, key, tags, user_rating, quality_ok, seconds, *others = row
    is_loop, quality_issues, corrected = others
    return Hit(
        rank=rank,
        cosine=cosine,
        id=stem_id,
        original_file=os.fsdecode(original_file),
        wav=os.fsdecode(wav) if wav is not None else None,
        sha256=sha256,
        category=category,
        bpm=bpm,
        key=key,
        tags=texts_of(tags),
        user_rating=user_rating,
        quality_ok=bool(quality_ok),
        seconds=seconds,
        is_loop=None if is_loop is None else bool(is_loop),
        quality_issues=texts_of(quality_issues),
        corrected=tuple(corrected.split()) if corrected else (),
    )
