"""Keep committed rows in the main file, and leave one file at a run's end.

While a run writes, the database is in WAL mode: a commit appends to the file `-wal`, and readers go on reading. A
checkpoint copies what is in that file to the main file. At other times the database is in DELETE mode: a single file,
which a plain copy copies completely, and which opens on a read-only disk.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from stem_dataset.logs import log

# The next checkpoint waits until this many times the duration of the last one has passed, so that checkpoints
# take at most a hundredth of a run. On an SSD one takes 5 to 30 ms: then a batch that takes over 3 s gets its own.
PAUSE_PER_CHECKPOINT = 100
# Rows are in the main file after this time, however slow the disk is.
LONGEST_PAUSE_S = 30.0


class Journal:
    """The journal mode of one connection, and its checkpoints."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.is_wal = self._mode() == "wal"
        # Whether a commit may be in the WAL alone.
        self.is_behind = self.is_wal
        self._next_s = 0.0

    def _mode(self) -> str:
        return str(self.connection.execute("PRAGMA journal_mode").fetchone()[0])

    def begin(self, when_free: Callable[[str], None]) -> None:
        """Change to WAL mode before the first write.

        A run that has nothing to write leaves the file as it is, byte for byte. `when_free` executes a statement as
        soon as no other program holds the database.
        """
        if not self.is_wal:
            when_free("PRAGMA journal_mode = WAL")
            self.is_wal = True

    def committed(self) -> None:
        """Note a commit, and checkpoint it unless the last checkpoint was a moment ago."""
        self.is_behind = True
        self.checkpoint_if_due()

    def checkpoint_if_due(self) -> None:
        """Make a checkpoint if one is needed and due."""
        if self.is_behind and not self.connection.in_transaction and time.monotonic() >= self._next_s:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Copy to the main file the pages whose old versions no reader still needs.

        PASSIVE waits for nobody. With a reader in an old transaction, it copies a part, or nothing.
        """
        started_s = time.monotonic()
        try:
            busy, in_wal, copied = self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self.is_behind = bool(busy) or copied < in_wal
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
        ended_s = time.monotonic()
        self._next_s = ended_s + min(LONGEST_PAUSE_S, PAUSE_PER_CHECKPOINT * (ended_s - started_s))

    def end(self) -> None:
        """Leave one file, complete and in DELETE mode; errors are logged, since all rows are safe in the WAL."""
        try:
            # --verify-vectors has made the connection read-only.
            self.connection.execute("PRAGMA query_only = OFF")
            if self._mode() == "wal":
                self._leave_wal_mode()
        except sqlite3.Error as error:
            log.warning("the database stays in WAL mode, with a file -wal that belongs to it: %s", error)

    def _leave_wal_mode(self) -> None:
        try:
            self.connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            # An empty WAL tells the next run that this one ended well.
            busy, *_ = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            log.info(
                "another program has the database open, so it stays in WAL mode until the next run ends%s",
                ": until that program closes it, the file -wal belongs to it" if busy else "; the file is complete",
            )
