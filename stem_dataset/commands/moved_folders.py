"""Follow a library, a stems folder or a quarantine folder that was moved, without reading a file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stem_dataset.config import Config
from stem_dataset.database.moves import (
    folder_of_last_run,
    follow_quarantined,
    follow_wavs,
    note_folder,
    rebase_others,
    rebase_rows,
)
from stem_dataset.database.resume import ResumeFilter
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import FoundFile, QuarantineEntry
from stem_dataset.drives import is_gone
from stem_dataset.files import is_inside
from stem_dataset.logs import log, printable
from stem_dataset.quarantine import json_path_of, read_entry, relocate_entry

# This many new files are compared with all rows. If the library was moved, nearly all of them match one.
SAMPLE_FILES = 200


@dataclass(frozen=True, slots=True)
class Move:
    """A library that was in the folder `old` and is in `new` now."""

    old: str
    new: str
    rows: int

    def __str__(self) -> str:
        return f"from {printable(self.old)} to {printable(self.new)}"


def find_move(known: ResumeFilter, files: Sequence[FoundFile], root: str) -> Move | None:
    """Return where the library under `root` was before, if it was moved as a whole.

    `files` are those that the walk found and that are not done. A former root is a folder under which rows have the
    same relative paths, sizes and times as these files: at least half of the rows there. It must be gone, or be the
    same folder under another name, such as a second mount point. A copy of a library that is still there is no move.
    """
    if not files:
        return None
    for old, _ in _former_roots(known, files[:: max(1, len(files) // SAMPLE_FILES)], root).most_common():
        rows = sum(is_inside(path, old) for path in known.unfound)
        folder, tail = old.rstrip(os.sep), len(root.rstrip(os.sep))
        same = sum(known.unfound.get(folder + found.path[tail:]) == _status(found) for found in files)
        if 2 * same >= rows and _has_moved(old, root):
            return Move(old, root, rows)
    return None


def _status(found: FoundFile) -> tuple[int, int]:
    return found.size_bytes, found.mtime_ns


def _former_roots(known: ResumeFilter, sample: Sequence[FoundFile], root: str) -> Counter[str]:
    """Return the folders under which rows look like the files of `sample`, and how many do."""
    tails: dict[tuple[int, int], list[str]] = {}
    for found in sample:
        tails.setdefault(_status(found), []).append(found.path[len(root.rstrip(os.sep)) :])
    votes: Counter[str] = Counter()
    for path, status in known.unfound.items():
        votes.update(path[: -len(tail)] for tail in tails.get(status, ()) if path.endswith(tail))
    return Counter({old: count for old, count in votes.items() if old and _are_apart(old, root)})


def _are_apart(old: str, root: str) -> bool:
    return not is_inside(old, root) and not is_inside(root, old)


def _has_moved(old: str, root: str) -> bool:
    try:
        return is_gone(old) or os.path.samefile(old, root)
    except (OSError, TimeoutError):
        return False


def rebase(move: Move, config: Config, database: Database) -> None:
    """Point all that is known of a library to its new root.

    The rows of `stems` come last: if they still have the old root, the next run finds the move again.
    """
    for path, entry in _entries(config.quarantine):
        if is_inside(entry.original_file, move.old):
            tail = entry.original_file[len(move.old.rstrip(os.sep)) :]
            relocate_entry(path, entry, move.new.rstrip(os.sep) + tail)
    rebase_others(database, move.old, move.new)
    rows = rebase_rows(database, move.old, move.new)
    log.info("the library was moved %s: %d rows are re-based", move, rows)


def announce(move: Move) -> None:
    """Say what a run would do, for --dry-run."""
    log.info("the library was moved %s: %d rows would be re-based", move, move.rows)


def _entries(quarantine: Path) -> Iterator[tuple[Path, QuarantineEntry]]:
    for json_path in sorted(Path(os.path.realpath(quarantine)).glob("ERROR_*.json")):
        entry = read_entry(json_path)
        if entry is not None:
            yield json_path.with_suffix(""), entry


def follow_quarantined_file(path: Path, database: Database) -> None:
    """Note that a quarantined file is at `path` now, where its JSON says otherwise."""
    entry = read_entry(json_path_of(path))
    if entry is not None and entry.path != str(path):
        original_file = _original_moved_along(entry, str(path))
        follow_quarantined(database, entry.path, str(path), original_file)
        relocate_entry(path, entry, original_file)


def _original_moved_along(entry: QuarantineEntry, path: str) -> str:
    """Return where a quarantined file came from, if library and quarantine were moved together."""
    old, new = entry.path, path
    while os.path.basename(old) == os.path.basename(new) != "":
        old, new = os.path.dirname(old), os.path.dirname(new)
    if is_inside(entry.original_file, old) and not os.path.isdir(os.path.dirname(entry.original_file)):
        original_file = new.rstrip(os.sep) + entry.original_file[len(old.rstrip(os.sep)) :]
        if os.path.isdir(os.path.dirname(original_file)):
            return original_file
    return entry.original_file


def follow_stems(stems: Path | None, database: Database) -> None:
    """Point each row to its WAV in the stems folder, if that is not where it was in the last run."""
    if stems is None:
        return
    folder = Path(os.path.realpath(stems))
    if folder_of_last_run(database, "stems") != str(folder):
        rows = 0
        for subfolder in sorted(folder.glob("[0-9a-f][0-9a-f]")):
            rows += follow_wavs(database, folder, [wav.stem for wav in subfolder.glob("*.wav")])
            database.on_wait()
        if rows:
            log.info("the WAVs of %d rows are in %s now", rows, printable(folder))
        note_folder(database, "stems", folder)
