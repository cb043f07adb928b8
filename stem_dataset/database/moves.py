"""Point rows to files, folders and WAVs that have moved."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stem_dataset.database.schema import MOVE_ROW
from stem_dataset.database.stems import MOVED_MTIME_NS, Database
from stem_dataset.datatypes import path_text_of
from stem_dataset.output_folders import wav_path

# The number of rows to rebase per transaction (40 MB of the write-ahead log).
ROWS_PER_STEP = 10_000


def move_rows(database: Database, moves: Mapping[str, str]) -> None:
    """Point rows, by their ids, to the paths that hold their bytes now, in one transaction.

    The paths may be those of other rows: these move too, in a cycle if need be, or else step aside. As in
    `Database.take_over`, the mtime is one that no file has until the columns that depend on names are updated.
    """
    with database.transaction() as connection:
        aside = {}
        for path in moves.values():
            query = "SELECT id FROM stems WHERE original_file = CAST(? AS TEXT)"
            for (stem_id,) in connection.execute(query, (os.fsencode(path),)):
                if stem_id not in moves:
                    aside[stem_id] = path_aside(path, stem_id)
        # Two steps, since no two rows may have one path for a moment.
        ids = [(stem_id,) for stem_id in (*moves, *aside)]
        connection.executemany("UPDATE stems SET original_file = '?' || id WHERE id = ?", ids)
        values = [(os.fsencode(path), path_text_of(path), MOVED_MTIME_NS, stem_id) for stem_id, path in moves.items()]
        connection.executemany(MOVE_ROW, values)
        connection.executemany(
            "UPDATE stems SET original_file = CAST(? AS TEXT), path_text = ? WHERE id = ?",
            [(os.fsencode(path), path_text_of(path), stem_id) for stem_id, path in aside.items()],
        )


def path_aside(path: str, stem_id: str) -> str:
    """Return a path for the row of a file that is gone, when another row's file is at its path now.

    No file has such a name. The row counts as one whose file is gone, until its bytes are found again.
    """
    return f"{path} (replaced, {stem_id})"


def note_inodes(database: Database, inodes: Mapping[str, int]) -> None:
    """Store the inodes of files whose rows have none, by path."""
    if inodes:
        values = [(inode, os.fsencode(path)) for path, inode in inodes.items()]
        with database.transaction() as connection:
            connection.executemany("UPDATE stems SET inode = ? WHERE original_file = CAST(? AS TEXT)", values)


# A name under the new folder (its bytes with a separator), after as many bytes as the old one had.
NEW_NAME = "CAST(:folder AS TEXT) || CAST(substr(CAST({table}.original_file AS BLOB), :old_bytes + 1) AS TEXT)"
IN_RANGE = "original_file >= CAST(:first AS TEXT) AND original_file < CAST(:stop AS TEXT)"
REBASE = f"""
UPDATE stems SET original_file = {NEW_NAME.format(table="stems")}, inode = NULL,
  path_text = CASE WHEN :is_escaped OR path_text IS NOT NULL
    THEN :folder_text || substr(coalesce(path_text, original_file), :old_characters + 1) END
WHERE {IN_RANGE}
  AND NOT EXISTS (SELECT 1 FROM stems AS other WHERE other.original_file = {NEW_NAME.format(table="stems")})"""
END_OF_STEP = f"""
SELECT original_file FROM stems WHERE {IN_RANGE}
ORDER BY original_file LIMIT 1 OFFSET :rows"""


def rebase_rows(database: Database, old: str, new: str) -> int:
    """Point all rows under the folder `old` to the same names under `new`; return how many.

    Neither folder is inside the other. A row stays if another row has its new name. Only the database is read.
    If the program is killed between two steps, the rows that are left are as they were, and the next run goes on.
    """
    values = {**_values_of(old, new), "rows": ROWS_PER_STEP}
    last, rows = values["stop"], 0
    while True:
        with database.transaction() as connection:
            end = connection.execute(END_OF_STEP, values).fetchone()
            values["stop"] = os.fsencode(end[0]) if end else last
            rows += connection.execute(REBASE, values).rowcount
        database.on_wait()
        if not end:
            return rows
        values.update(first=values["stop"], stop=last)


def rebase_others(database: Database, old: str, new: str) -> None:
    """Do the same to the rows of `quarantined` and `restored`."""
    values = _values_of(old, new)
    with database.transaction() as connection:
        for table in ("quarantined", "restored"):
            name = NEW_NAME.format(table=table)
            connection.execute(f"UPDATE OR REPLACE {table} SET original_file = {name} WHERE {IN_RANGE}", values)


def _values_of(old: str, new: str) -> dict[str, Any]:
    """Return the parameters of the statements above."""
    old, new = (folder.rstrip(os.sep) + os.sep for folder in (old, new))
    first = os.fsencode(old)
    return {
        "first": first,
        "stop": first[:-1] + bytes([first[-1] + 1]),  # the first name after all of the folder's
        "old_bytes": len(first),
        "old_characters": len(path_text_of(old) or old),
        "folder": os.fsencode(new),
        "folder_text": path_text_of(new) or new,
        "is_escaped": path_text_of(new) is not None,
    }


def follow_quarantined(database: Database, former: str, path: str, original_file: str) -> None:
    """Point the row of a quarantined file to where the quarantine folder is now."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE OR REPLACE quarantined SET quarantine_path = CAST(? AS TEXT), original_file = CAST(? AS TEXT) "
            "WHERE quarantine_path = CAST(? AS TEXT)",
            (os.fsencode(path), os.fsencode(original_file), os.fsencode(former)),
        )


def follow_wavs(database: Database, stems: Path, ids: Iterable[str]) -> int:
    """Point the rows with these ids to their WAVs in the folder `stems`; return how many pointed elsewhere."""
    wavs = [(stem_id, os.fsencode(wav_path(stems, stem_id))) for stem_id in ids]
    with database.transaction() as connection:
        return connection.executemany(
            "UPDATE stems SET path = CAST(?2 AS TEXT) WHERE id = ?1 AND path <> CAST(?2 AS TEXT)", wavs
        ).rowcount


def folder_of_last_run(database: Database, name: str) -> str | None:
    """Return where an output folder was when `note_folder` was last called."""
    with database.errors():
        row = database.connection.execute("SELECT path FROM folders WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def note_folder(database: Database, name: str, folder: Path) -> None:
    """Remember where an output folder is now."""
    with database.transaction() as connection:
        connection.execute("INSERT OR REPLACE INTO folders VALUES (?, CAST(? AS TEXT))", (name, os.fsencode(folder)))
