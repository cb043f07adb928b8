"""Open, check, copy and remove the SQLite file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stem_dataset.database.schema import SCHEMA_VERSION
from stem_dataset.datatypes import StoredFile, text_of
from stem_dataset.errors import RunStopped, UsageError
from stem_dataset.files import numbered_names, put_in_place
from stem_dataset.logs import printable

# What to do about a damaged database, for messages. SQLite would replay a leftover `-wal` into the backup.
RESTORE_TEXT = (
    "put a backup in its place, and first remove the files beside it whose names end with -wal and -shm, which belong "
    "to the damaged one and would damage the backup; or move all three away"
)
# How long a reader waits for a writer, who holds the database for the time of one batch.
LOCKED_S = 5.0
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
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT:
            raise RunStopped(f"{printable(path)}: is damaged: {error}; no file was touched: {RESTORE_TEXT}") from None
        raise UsageError(
            f"{printable(path)}: not a SQLite database ({error}); choose another --database. If it was one, it is "
            f"damaged: {RESTORE_TEXT}"
        ) from None
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


REMEDIES = {
    sqlite3.SQLITE_FULL: "free some space on its disk",
    sqlite3.SQLITE_BUSY: "another program holds it; close that program",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "check that its folder is there and writable, and the limit of open files (`ulimit -n`)",
    sqlite3.SQLITE_IOERR: "its disk is full, failing or gone: free some space on it, or check it",
    sqlite3.SQLITE_CORRUPT: f"it is damaged: {RESTORE_TEXT}",
    sqlite3.SQLITE_NOTADB: f"it is damaged: {RESTORE_TEXT}",
}


def remedy_for(error: sqlite3.Error) -> str:
    """Return what a user can do about an error of SQLite."""
    return REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "fix the cause")


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


def stored_files(connection: sqlite3.Connection) -> Iterator[StoredFile]:
    """Yield the file and the WAV of each row, and whether the user has rated it, folder by folder."""
    rows = connection.execute("SELECT id, original_file, path, user_rating FROM stems ORDER BY original_file")
    return (StoredFile(stem_id, name, wav, rating is not None) for stem_id, name, wav, rating in rows)


def open_beside_writers(path: Path) -> sqlite3.Connection:
    """Open a database for reads that take long, while a run may write to it.

    `open_read_only` leaves no trace, but what it reads is wrong if a run starts meanwhile. No statement can write.
    Raises `sqlite3.OperationalError` if a writer holds the database for long.
    """
    # Not "ro": the connection that is closed last moves the WAL into the database, also if the run ended before.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=LOCKED_S)
    connection.text_factory = text_of
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        connection.close()
        # A writer holds it. Without its lock, what is read could be half written.
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
        # The folder is not writable, so SQLite cannot make a WAL. Then no run can write either.
        return open_read_only(path)
    return connection
