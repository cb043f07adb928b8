"""Open the SQLite file: is it ours, can it be read, is it known already."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from stem_dataset.database.schema import SCHEMA_VERSION
from stem_dataset.datatypes import text_of
from stem_dataset.errors import RunStopped, UsageError
from stem_dataset.logs import printable


def check_database(path: Path) -> bool:
    """Return whether our tables are at `path`; raises `UsageError` for what is not ours. Changes nothing."""
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
        text = f"has schema {version}, and this program knows up to {SCHEMA_VERSION}: update the program"
        raise UsageError(f"{printable(path)}: {text}")
    if tables and not (version and {"stems", "quarantined"} <= tables):  # many programs have a schema 1
        raise UsageError(f"{printable(path)}: is the database of another program; choose another --database")
    return bool(tables)  # none yet: a run was killed, or is, between making the file and its tables


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a database without leaving a trace: `immutable` spares the -shm file too, where no writer is at work."""
    has_writer = path.with_name(path.name + "-wal").exists()
    mode = "mode=ro" if has_writer else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
    connection.text_factory = text_of
    return connection


def remove_database(path: Path) -> None:
    """Remove a database, if it is there, and what SQLite keeps beside it."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class KnownFiles:
    """What is done, as it was when it was done: what the resume filter asks."""

    imported: dict[str, tuple[int, int]]  # size_bytes and mtime_ns by original_file
    quarantined: set[tuple[str, int, int]]  # in its place still where it could not be removed, or was put back by hand


def known_files(connection: sqlite3.Connection) -> KnownFiles:
    """Return every file that the database knows."""
    imported = connection.execute("SELECT original_file, size_bytes, mtime_ns FROM stems")
    broken = connection.execute("SELECT original_file, size_bytes, mtime_ns FROM quarantined")
    return KnownFiles({path: (size_bytes, mtime_ns) for path, size_bytes, mtime_ns in imported}, {*broken})
