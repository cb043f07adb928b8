"""Open, check, copy and remove the SQLite file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stem_dataset.database.schema import SCHEMA_VERSION
from stem_dataset.datatypes import text_of
from stem_dataset.errors import RunStopped, UsageError
from stem_dataset.files import numbered_names, put_in_place
from stem_dataset.logs import printable

# A copy goes on by this many pages (16 MB) between two checks for Ctrl-C.
COPIED_PAGES = 4_096


def check_database(path: Path) -> bool:
    """Return whether our tables are at `path`.

    Nothing is changed. Raises `UsageError` if there is something that is not ours.
    """
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return False
    try:
        if path.is_dir():
            raise UsageError(f"{printable(path)}: is a folder; choose another --database")
        with contextlib.closing(open_read_only(path)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
            raise RunStopped(f"{printable(path)}: cannot be read: {error}; no file was touched") from None
        raise UsageError(f"{printable(path)}: not a SQLite database ({error}); choose another --database") from None
    if version > SCHEMA_VERSION:
        text = f"has schema {version}, and this program supports schemas up to {SCHEMA_VERSION}: update the program"
        raise UsageError(f"{printable(path)}: {text}")
    # A version alone proves nothing: many programs have a schema 1.
    if tables and not (version and {"stems", "quarantined"} <= tables):
        raise UsageError(f"{printable(path)}: is the database of another program; choose another --database")
    # There are no tables if a run was killed, or is still at work, between creating the file and its tables.
    return bool(tables)


def require_database(database: Path, flag: str) -> None:
    """Raise `UsageError` where there is no database, which `flag` needs."""
    if not check_database(database):
        raise UsageError(f"{flag}: there is no database at {printable(database)}: give --database")


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a database without leaving files behind."""
    has_writer = path.with_name(path.name + "-wal").exists()
    # `immutable` avoids the -shm file too. It is safe only if nobody writes.
    mode = "mode=ro" if has_writer else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
    connection.text_factory = text_of
    return connection


def remove_database(path: Path) -> None:
    """Remove a database, and the files that SQLite keeps beside it."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def copy_database(database: Path, name: str, on_wait: Callable[[], None]) -> Path:
    """Copy the database, with its WAL, to a new file beside it.

    The name is `name`, or `name`~2, … if that is taken.
    """
    scratch = database.with_name(name + ".unfinished")
    # The journal of a killed copy would be replayed into the new one.
    remove_database(scratch)
    try:
        # A second connection reads: the one that holds the write lock would wait for itself for ever.
        with (
            contextlib.closing(sqlite3.connect(database)) as source,
            contextlib.closing(sqlite3.connect(scratch)) as copy,
        ):
            source.backup(copy, pages=COPIED_PAGES, progress=lambda *_: on_wait())
            # Otherwise whoever opens the copy would get three files.
            copy.execute("PRAGMA journal_mode = DELETE")
        path = next(path for path in map(database.with_name, numbered_names(name)) if not os.path.lexists(path))
        put_in_place(scratch, path)
    finally:
        remove_database(scratch)
    return path


@dataclass(frozen=True, slots=True)
class KnownFiles:
    """The files that are done, for the resume filter.

    Size and time are those of the file when it was processed.
    """

    # By original_file: size_bytes and mtime_ns.
    imported: dict[str, tuple[int, int]]
    # Quarantine could not remove such a file, or someone put it back by hand.
    quarantined: set[tuple[str, int, int]]


def known_files(connection: sqlite3.Connection) -> KnownFiles:
    """Return every file that the database knows."""
    imported = connection.execute("SELECT original_file, size_bytes, mtime_ns FROM stems")
    broken = connection.execute("SELECT original_file, size_bytes, mtime_ns FROM quarantined")
    return KnownFiles({path: (size_bytes, mtime_ns) for path, size_bytes, mtime_ns in imported}, {*broken})


def open_beside_writers(path: Path) -> sqlite3.Connection:
    """Open a database for reads that take long, while a run may write to it.

    `open_read_only` leaves no trace, but what it reads is wrong if a run starts meanwhile. No statement can write.
    """
    # Not "ro": the connection that is closed last moves the WAL into the database, also if the run ended before.
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    connection.text_factory = text_of
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        # The folder is not writable, so SQLite cannot make a WAL. Then no run can write either.
        connection.close()
        return open_read_only(path)
    return connection
