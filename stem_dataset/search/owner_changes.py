"""What the owner says about stems, ratings and corrections: written to the database, and to the sidecar.

    lock of the sidecar ──► database: one transaction ──► sidecar: the row ──► card: the new stamp
                                                                              (unless another program wrote meanwhile)

The sidecar need not be copied again for a change that is made here. If another program has changed the database since
the sidecar was made, the sidecar is stale and stays so. If this program is killed on the way, the card has the former
stamp, so the next search makes the sidecar anew. A preparer may run at the same time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stem_dataset.database.connection import remedy_for
from stem_dataset.datatypes import storable, text_of
from stem_dataset.errors import RunStopped, UsageError
from stem_dataset.logs import log, printable
from stem_dataset.search.query import key_of
from stem_dataset.search.sidecar import (
    card_if_current,
    folder_of,
    lock_if_free,
    patch_stem,
    require_current_database,
    settled_stamp,
    shown_columns,
    write_card,
)

CORRECTABLE = ("bpm", "key", "category", "tags")
HIGHEST_RATING = 5
# A preparer holds the database for the time of one batch, far under a second.
HELD_DATABASE_S = 10.0
# A search that copies the database holds the sidecar's lock. Then the change is not patched in.
HELD_SIDECAR_S = 2.0

RATE = "UPDATE stems SET user_rating = ? WHERE id = ?"
CORRECT = "INSERT OR REPLACE INTO corrections (stem_id, column_name, value) VALUES (?, ?, ?)"
UNCORRECT = "DELETE FROM corrections WHERE stem_id = ? AND column_name = ?"


class DatabaseLocked(RunStopped):
    """Another program holds the database for long; nothing was written."""


class OwnerChanges:
    """Writes ratings and corrections, one transaction each.

    May be used by several threads. Raises `UsageError` for a value that makes no sense or a stem that is not there,
    `DatabaseLocked`, and `RunStopped` if the database cannot be written.
    """

    def __init__(self, database: Path, folder: Path | None = None) -> None:
        """`folder` is that of the sidecar, if it is not in its usual place (`Sidecar.folder`)."""
        self.database = database.resolve()
        require_current_database(self.database)
        self.folder = folder or folder_of(self.database)

    def rate(self, stem_id: str, rating: int | None) -> None:
        """Give a stem a rating from 0 to 5; None removes it."""
        self._write(stem_id, RATE, (checked_rating(rating), stem_id))

    def correct(self, stem_id: str, column: str, value: object) -> None:
        """Note what holds of a stem, whatever the program found; None says that it has no tempo or no key.

        column, value: 'bpm' with a number, 'key' with a text such as 'Bb minor', 'category' with a text, 'tags' with a
        list of texts
        """
        self._write(stem_id, CORRECT, (stem_id, column, checked_value(column, value)))

    def uncorrect(self, stem_id: str, column: str) -> None:
        """Remove a correction, so that what the program found shows again."""
        self._write(stem_id, UNCORRECT, (stem_id, checked_column(column)))

    def _write(self, stem_id: str, statement: str, values: Sequence[Any]) -> None:
        with lock_if_free(self.folder, HELD_SIDECAR_S) as is_held, self._connection() as connection:
            # This must come before the look at the files: `is_current` then holds until another program commits.
            version = data_version(connection)
            card = card_if_current(self.folder, self.database) if is_held else None
            columns = self._commit(connection, stem_id, statement, values)
            if card is None:
                return
            try:
                patch_stem(self.folder / card["stems"], columns)
                # The wait comes before the second look: a later commit of another program changes the stamp.
                stamp = settled_stamp(self.database)
                if data_version(connection) == version:
                    write_card(self.folder, {**card, "stamp": stamp})
            except (OSError, sqlite3.Error) as error:
                # The change itself is written.
                log.debug("%s: the next search makes it anew: %s", printable(self.folder), error)

    def _commit(
        self, connection: sqlite3.Connection, stem_id: str, statement: str, values: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Write, and return what the view `library` then shows, as `SHOWN_COLUMNS`."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(statement, values)
            shown = shown_columns(connection, [stem_id])
            if stem_id not in shown:
                raise UsageError(f"no stem has the id {printable(stem_id)}: it may have been removed; search again")
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
        return (stem_id, *shown[stem_id])

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Open the database for one change.

        A connection that stays open would keep a preparer from leaving WAL mode at its end.
        """
        try:
            # Without "mode=rw", a database that was removed would be made anew, empty.
            uri = f"{self.database.as_uri()}?mode=rw"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
                connection.text_factory = text_of
                leave_wal_mode_if_alone(connection)
                connection.execute(f"PRAGMA busy_timeout = {HELD_DATABASE_S * 1e3:.0f}")
                yield connection
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                text = f"another program has held the database for {HELD_DATABASE_S:g} s; nothing was written"
                raise DatabaseLocked(f"{printable(self.database)}: {text}: try again when it is done") from None
            text = f"{error}; nothing was written: {remedy_for(error)}, then try again"
            raise RunStopped(f"{printable(self.database)}: {text}") from None


def data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has committed."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def leave_wal_mode_if_alone(connection: sqlite3.Connection) -> None:
    """Leave the WAL mode in which a killed preparer, or one whose database others had open, left the database.

    In that mode, the connection that is closed last moves the WAL into the file. The stamp would change with it.
    """
    with contextlib.suppress(sqlite3.OperationalError):  # a preparer is at work
        if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            connection.execute("PRAGMA journal_mode = DELETE")


def checked_rating(rating: object) -> int | None:
    """Return a rating; raises `UsageError` unless it is a whole number from 0 to 5, or None."""
    is_rating = isinstance(rating, int) and not isinstance(rating, bool) and 0 <= rating <= HIGHEST_RATING
    if rating is not None and not is_rating:
        raise UsageError(f"{printable(repr(rating))}: give a rating from 0 to {HIGHEST_RATING}, or none")
    return rating if isinstance(rating, int) else None


def checked_column(column: str) -> str:
    """Return the name of a column that the owner may correct; raises `UsageError` for another."""
    if column not in CORRECTABLE:
        raise UsageError(f"{printable(column)}: cannot be corrected: give {', '.join(CORRECTABLE)}")
    return column


def checked_value(column: str, value: object) -> str | None:
    """Return `value` as the table `corrections` has it; raises `UsageError` if it makes no sense."""
    if value is None and checked_column(column) in ("bpm", "key"):
        return None
    return {"bpm": _tempo, "key": _key, "category": _category, "tags": _tags}[checked_column(column)](value)


def _tempo(value: object) -> str:
    bpm = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            bpm = float(value)
    # `not` also catches NaN.
    if not 0 < bpm < math.inf:
        raise UsageError(f"{printable(repr(value))}: give a tempo in beats per minute, as 124, or none")
    return str(bpm)


def _key(value: object) -> str:
    try:
        return key_of(value if isinstance(value, str) else "")
    except argparse.ArgumentTypeError:
        raise UsageError(f"{printable(repr(value))}: give a key, as C, Am, F#m or Bb, or none") from None


def _category(value: object) -> str:
    if not _is_word(value):
        raise UsageError(f"{printable(repr(value))}: give a category, as kick")
    return storable(str(value).strip())


def _is_word(value: object) -> bool:
    """Return whether `value` is a text with something in it, on one line."""
    return isinstance(value, str) and bool(value.strip()) and all(unicodedata.category(c) != "Cc" for c in value)


def _tags(value: object) -> str:
    """Return the tags as a JSON array, each once."""
    if not isinstance(value, list | tuple) or not all(map(_is_word, value)):
        raise UsageError(f"{printable(repr(value))}: give a list of tags, none of them empty")
    tags = dict.fromkeys(tag.strip() for tag in value)
    return storable(json.dumps(list(tags), ensure_ascii=False))
