"""Vectors in groups, as a library of kicks, pads and voices has them, and a library without a database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stem_dataset.datatypes import Float32
from stem_dataset.search.library import Library
from stem_dataset.search.sidecar import TABLES, Sidecar


def grouped_vectors(rows: int, groups: int, seed: int = 0) -> tuple[Float32, npt.NDArray[np.int64]]:
    """Return vectors, (rows, 512), of unit length, and the group of each, (rows,).

    Within a group, cosines are about 0.8; between groups, they are about 0.
    """
    random = np.random.default_rng(seed)
    of_row = np.arange(rows) % groups
    centres = np.random.default_rng(99).normal(size=(groups, 512))
    vectors = centres[of_row] + 0.5 * random.normal(size=(rows, 512))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32), of_row


def library_of(vectors: Float32, ids: Sequence[str], models: Sequence[str] | None = None) -> Library:
    """Return a library with these vectors; `models` are those of the rows. Its files' bytes follow from the ids."""
    models = models or ["model"] * len(ids)
    names = sorted(set(models))
    connection = sqlite3.connect(":memory:")
    connection.execute(TABLES)
    rows = [(place, stem_id, f"sha256 of {stem_id}", names.index(models[place])) for place, stem_id in enumerate(ids)]
    statement = "INSERT INTO stems (position, id, original_file, folder, sha256, model) VALUES (?, ?, x'', '', ?, ?)"
    connection.executemany(statement, rows)
    counts: list[tuple[str, int, str | None]] = [(name, models.count(name), None) for name in names]
    return Library(Sidecar(Path(), {}, vectors, connection, counts))


def share_of_like_neighbours(places: Float32, of_row: npt.NDArray[np.int64], count: int = 5) -> float:
    """Return how many of the nearest `count` of each place are of its group, from 0 to 1."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, :count]
    return float((of_row[nearest] == of_row[:, None]).mean())
