"""What the page reads from the database itself: paths, the quarantine, and what holds of a stem now.

Each call opens the database and closes it, so the page stands in no writer's way.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stem_dataset.database.connection import open_beside_writers
from stem_dataset.search.sidecar import SHOWN_COLUMNS, shown_columns

PATHS = "SELECT original_file, path FROM stems WHERE id = ?"
QUARANTINED = """
SELECT original_file, error, quarantined_at FROM quarantined ORDER BY quarantined_at DESC, original_file
LIMIT ? OFFSET ?"""


@dataclass(frozen=True)
class StemPaths:
    """Where a stem's files should be.

    original: bytes that are not UTF-8 are surrogates
    wav: the standardised WAV; None if none was written
    """

    stem_id: str
    original: str
    wav: str | None


class DatabaseReader:
    """Reads the database of the page."""

    def __init__(self, database: Path) -> None:
        self.database = database

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(open_beside_writers(self.database)) as connection:
            yield connection

    def paths_of(self, stem_id: str) -> StemPaths | None:
        """Return the paths of a stem; None if there is no such stem."""
        with self._connection() as connection:
            row = connection.execute(PATHS, (stem_id,)).fetchone()
        if row is None:
            return None
        # Paths are stored byte for byte.
        original, wav = (None if path is None else os.fsdecode(_bytes_of(path)) for path in row)
        return StemPaths(stem_id, original or "", wav)

    def now(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return `SHOWN_COLUMNS` of stems but for the id, with corrections, by id; a stem that is gone is missing.

        `ids` are at most 1,000.
        """
        with self._connection() as connection:
            shown = shown_columns(connection, ids)
        return {stem_id: dict(zip(SHOWN_COLUMNS[1:], values, strict=True)) for stem_id, values in shown.items()}

    def quarantined(self, start: int, count: int) -> tuple[list[tuple[str, str, str]], int]:
        """Return quarantined files, the latest first, as original path, error and time; and how many there are."""
        with self._connection() as connection:
            rows = connection.execute(QUARANTINED, (count, start)).fetchall()
            (total,) = connection.execute("SELECT count(*) FROM quarantined").fetchone()
        return rows, total


def _bytes_of(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
