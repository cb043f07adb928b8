"""Find out whether a database file is damaged."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal

from stem_dataset.database.connection import RESTORE_TEXT
from stem_dataset.datatypes import RowToCheck
from stem_dataset.errors import RunStopped
from stem_dataset.logs import log, printable
from stem_dataset.signals import TICK_S

ROW_TO_CHECK = """
SELECT rowid, id, original_file, path, samples_sha256, size_bytes, clap_embedding,
       json_valid(tags) AND json_valid(features)
FROM stems WHERE rowid = ?"""


def refuse_damaged_after_kill(path: Path, on_wait: Callable[[], None]) -> None:
    """Raise `RunStopped` if the database was not closed properly and is damaged.

    A file `-wal` with content shows such an end; SQLite recovers from it. But if somebody put a backup in the place of
    the database and left the `-wal`, SQLite writes pages of the former database over the backup. Here the files are
    only read, so that the backup stays as it was put there.
    """
    wal = path.with_name(path.name + "-wal")
    if not path.exists() or not wal.exists() or wal.stat().st_size == 0:
        return
    log.info("%s was not closed, as when a run is killed: checking it", printable(path))
    findings = damage_of(path, "quick_check", on_wait)
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise RunStopped(
            f"{printable(path)}: is damaged: {findings[0]}{more}. It was not closed by the last "
            f"program that wrote to it, or a backup was put in its place beside {printable(wal)} of the former one. "
            f"Nothing was changed: {RESTORE_TEXT}. Then run again"
        )


def damage_of(path: Path, check: Literal["quick_check", "integrity_check"], on_wait: Callable[[], None]) -> list[str]:
    """Return what SQLite finds wrong in the file, at most 100 lines; none if it is whole.

    The check reads the whole file. It runs in a thread; meanwhile `on_wait` checks for Ctrl-C, and what it raises ends
    the check.
    """
    # A connection that only reads never checkpoints, not even when it is closed.
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with (
        ThreadPoolExecutor(1) as thread,
        contextlib.closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as connection,
    ):
        checking = thread.submit(_lines_of, connection, check)
        try:
            while not wait([checking], TICK_S).done:
                on_wait()
        except BaseException:
            connection.interrupt()
            wait([checking])
            raise
        return checking.result()


def _lines_of(connection: sqlite3.Connection, check: str) -> list[str]:
    try:
        rows = connection.execute(f"PRAGMA {check}").fetchall()
    except sqlite3.DatabaseError as error:
        return [str(error)]
    # A row may hold many lines, with a title above them.
    lines = [line for (text,) in rows for line in text.splitlines() if not line.startswith("***")]
    return [line for line in lines if line != "ok"]


def readable_rows(connection: sqlite3.Connection) -> Iterator[RowToCheck | str]:
    """Yield each row of `stems`, or a text where a row cannot be read.

    One query for all rows would end at the first damaged page.
    """
    try:
        rowids = connection.execute("SELECT rowid FROM stems").fetchall()
    except sqlite3.DatabaseError as error:
        yield f"the rows cannot be listed: {error}"
        return
    for (rowid,) in rowids:
        try:
            row = connection.execute(ROW_TO_CHECK, (rowid,)).fetchone()
        except sqlite3.DatabaseError as error:
            yield f"row {rowid} of stems cannot be read: {error}"
            continue
        yield RowToCheck(*row) if row else f"row {rowid} of stems is in an index, and not in the table"
