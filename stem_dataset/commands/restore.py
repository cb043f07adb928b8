"""Put quarantined files back, and repair what a killed run left.

It may have left partial WAVs and half-finished quarantine moves.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from pathlib import Path

from stem_dataset.commands.moved_folders import follow_quarantined_file, follow_stems
from stem_dataset.config import Config
from stem_dataset.database.moves import folder_of_last_run, note_folder
from stem_dataset.database.stems import Database
from stem_dataset.logs import log, printable
from stem_dataset.output_folders import SCRATCH, drop_wav, token_of
from stem_dataset.quarantine import finish_move, half_copy_of, is_same_file, put_back, read_entry
from stem_dataset.signals import StopSignals


def restore_quarantine(config: Config, database: Database, signals: StopSignals) -> Counter[str]:
    """Move quarantined files back, and return the outcomes' counts.

    No file is moved over another.
    """
    outcomes: Counter[str] = Counter()
    for json_path in sorted(config.quarantine.glob("ERROR_*.json")):
        signals.check()
        try:
            outcomes[_restore(json_path, database)] += 1
        except OSError as error:
            # The next start repairs what this left.
            log.error("%s: not restored: %s", printable(json_path.with_suffix("")), error)
            outcomes["failed"] += 1
    return outcomes


def _restore(json_path: Path, database: Database) -> str:
    """Put one quarantined file back and return its outcome.

    If it is killed at any moment, it can be called again.
    """
    entry = read_entry(json_path)
    path = json_path.with_suffix("")
    if entry is None or not os.path.lexists(path):
        return "without a file or a readable JSON"
    original = Path(entry.original_file)
    still_there = is_same_file(original, entry)
    if os.path.lexists(original) and not still_there:
        log.warning("%s: not restored, since another file is there now", printable(original))
        return "left, since its place is taken"
    database.forget_quarantined(entry)
    if still_there:
        # The library was read-only, so quarantine copied the file and the original stayed.
        path.unlink()
    else:
        put_back(path, original, entry)
    json_path.unlink()
    return "restored"


def clean_up(config: Config, database: Database) -> None:
    """Finish or undo what a killed run left.

    Also follow a stems folder, and quarantined files, that were moved since the last run.
    """
    for folder in filter(None, (config.stems, config.quarantine)):
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        for token in folder.glob(token_of(folder, "*").name):
            token.unlink(missing_ok=True)
    for partial_copy in config.quarantine.glob(".*.tmp"):
        partial_copy.unlink(missing_ok=True)
    follow_stems(config.stems, database)
    known = database.quarantined_paths()
    quarantine = Path(os.path.realpath(config.quarantine))
    has_moved = folder_of_last_run(database, "quarantine") != str(quarantine)
    for json_path in sorted(quarantine.glob("ERROR_*.json")):
        path = json_path.with_suffix("")
        if has_moved or str(path) not in known:
            try:
                follow_quarantined_file(path, database)
                _repair(path, json_path, database)
            except OSError as error:
                # One file that cannot be read must not end every run.
                log.warning("%s: not repaired: %s", printable(path), printable(error))
    if has_moved:
        # Last: if this run is killed, the next one follows the rest.
        note_folder(database, "quarantine", quarantine)


def _repair(path: Path, json_path: Path, database: Database) -> None:
    """Finish or undo the move of one quarantined file.

    Its JSON exists, and its row does not.
    """
    if not os.path.lexists(path):
        # The run was killed before the move: the file is still in its place.
        json_path.unlink()
        return
    entry = read_entry(json_path)
    if entry is None or entry.quarantined_at <= database.last_outcome_at(entry.original_file):
        return
    source = Path(entry.original_file)
    # In a read-only library unlink fails, but there is no partial copy either.
    with contextlib.suppress(OSError):
        # The run was killed while --restore-quarantine copied the file back.
        half_copy_of(source).unlink(missing_ok=True)
    finish_move(entry)
    drop_wav(database.enter_quarantined(entry))
