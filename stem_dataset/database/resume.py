"""The resume filter: which files are done, and which rows have lost their file or hold something else."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from stem_dataset.database.connection import KnownFiles, check_database, known_files, open_read_only
from stem_dataset.datatypes import FoundFile
from stem_dataset.errors import RunStopped
from stem_dataset.files import is_inside
from stem_dataset.logs import printable


class ResumeFilter:
    """What the database knows of files, while a walk asks about one after the other.

    A file is done if its size and time are those of its row. Where several known files share them, as the loops of one
    archive do, the inode must be the same too: otherwise two files that were swapped would not be noticed.
    """

    def __init__(self, connection: sqlite3.Connection | None = None) -> None:
        """Without a connection there is no database yet, so no file is done."""
        known = known_files(connection) if connection else KnownFiles({}, set())
        # By path: size and time in the rows whose files the walk has not found, or not yet.
        self.unfound = known.imported
        self.quarantined = known.quarantined
        self.row_sizes = {size_bytes for size_bytes, _ in self.unfound.values()}
        self.new_files: Sequence[FoundFile] = ()  # with those that --limit leaves for the next run
        # Sizes that a new file shares with another new file or a row: only such files can be copies.
        self.shared_sizes: set[int] = set()
        # By path: the size in the row of a file that has changed since, or may have.
        self.changed: dict[str, int] = {}
        counts = Counter(self.unfound.values())
        self._shared = {status for status, count in counts.items() if count > 1}
        self._inodes = self._inodes_of_shared(connection) if connection and self._shared else {}
        # By path: inodes to store, of files whose rows have none.
        self.new_inodes: dict[str, int] = {}

    def _inodes_of_shared(self, connection: sqlite3.Connection) -> dict[str, int]:
        # A dry run reads databases of earlier versions, which have no such column.
        with contextlib.suppress(sqlite3.OperationalError):
            rows = connection.execute("SELECT original_file, inode FROM stems WHERE inode IS NOT NULL")
            return {path: inode for path, inode in rows if self.unfound[path] in self._shared}
        return {}

    def is_done(self, found: FoundFile) -> bool:
        """Return whether a file needs no work; call this only once per file."""
        status = (found.size_bytes, found.mtime_ns)
        row = self.unfound.pop(found.path, None)
        if row == status and (status not in self._shared or self._has_its_inode(found)):
            return True
        if (found.path, *status) in self.quarantined:
            return True
        if row is not None:
            self.changed[found.path] = row[0]
        return False

    def _has_its_inode(self, found: FoundFile) -> bool:
        if found.inode is None:
            return True
        if found.path not in self._inodes:
            self.new_inodes[found.path] = found.inode
        return self._inodes.get(found.path, found.inode) == found.inode

    def take(self, files: Sequence[FoundFile]) -> None:
        """Note the files that are not done, and which sizes they share with each other or with a row."""
        self.new_files = files
        sizes = Counter(found.size_bytes for found in files)
        self.shared_sizes = {size for size, count in sizes.items() if count > 1 or size in self.row_sizes}

    def vanished(self, root: str, unseen: Iterable[str]) -> int:
        """Return how many rows under `root` have no file, after the walk; those in `unseen` folders may have."""
        paths = [path for path in self.unfound if is_inside(path, root)]
        if hidden := set(unseen):
            paths = [path for path in paths if hidden.isdisjoint([path, *map(str, Path(path).parents)])]
        return len(paths)

    def rebase(self, old: str, new: str, files: Sequence[FoundFile]) -> list[FoundFile]:
        """Take the rows under the folder `old` for rows under `new`; return those of `files` that are still not done.

        The inodes of a library that was copied to another disk are others, and prove nothing.
        """
        tail = len(old.rstrip(os.sep))
        new = new.rstrip(os.sep)
        for path in [path for path in self.unfound if is_inside(path, old)]:
            if new + path[tail:] not in self.changed:
                self.unfound[new + path[tail:]] = self.unfound.pop(path)
                self._inodes.pop(path, None)
        self.quarantined = {
            (new + path[tail:] if is_inside(path, old) else path, size_bytes, mtime_ns)
            for path, size_bytes, mtime_ns in self.quarantined
        }
        return [found for found in files if not self.is_done(found)]


def read_known(database: Path) -> ResumeFilter:
    """Return what a database knows, without opening it for writing; nothing if there is none yet."""
    if not check_database(database):
        return ResumeFilter()
    try:
        with contextlib.closing(open_read_only(database)) as connection:
            return ResumeFilter(connection)
    except sqlite3.Error as error:
        raise RunStopped(f"{printable(database)}: cannot be read: {error}") from None
