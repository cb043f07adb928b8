"""Put quarantined files back, and finish or undo what a killed run left of a quarantine or a WAV."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from pathlib import Path

from stem_dataset.config import Config
from stem_dataset.database.stems import Database
from stem_dataset.logs import log, printable
from stem_dataset.output_folders import SCRATCH, drop_wav, token_of
from stem_dataset.quarantine import finish_move, half_copy_of, is_same_file, put_back, read_entry
from stem_dataset.signals import StopSignals


def restore_quarantine(config: Config, database: Database, signals: StopSignals) -> Counter[str]:
    """Move quarantined files back to where they came from, never over another; return what became of them."""
    outcomes: Counter[str] = Counter()
    for json_path in sorted(config.quarantine.glob("ERROR_*.json")):
        signals.check()
        try:
            outcomes[_restore(json_path, database)] += 1
        except OSError as error:  # what it left is repaired by the next start
            log.error("%s: not restored: %s", printable(json_path.with_suffix("")), error)
            outcomes["failed"] += 1
    return outcomes


def _restore(json_path: Path, database: Database) -> str:
    """Put one quarantined file back; return what became of it. Killed at any moment, it can be called again."""
    entry = read_entry(json_path)
    path = json_path.with_suffix("")
    if entry is None or not os.path.lexists(path):
        return "without a file or a readable JSON"
    original = Path(entry.original_file)
    still_there = is_same_file(original, entry)
    if os.path.lexists(original) and not still_there:
        log.warning("%s: not restored, since there is another file now", printable(original))
        return "left, since its place is taken"
    database.forget_quarantined(entry)
    if still_there:  # a read-only library kept it
        path.unlink()
    else:
        put_back(path, original, entry)
    json_path.unlink()
    return "restored"


def clean_up(config: Config, database: Database) -> None:
    """Finish or undo what a killed run left: half WAVs, and quarantined files that no row names yet."""
    for folder in filter(None, (config.stems, config.quarantine)):
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        for token in folder.glob(token_of(folder, "*").name):
            token.unlink(missing_ok=True)
    for half_a_copy in config.quarantine.glob(".*.tmp"):
        half_a_copy.unlink(missing_ok=True)
    noted = database.verdict_paths()
    quarantine = Path(os.path.realpath(config.quarantine))
    for json_path in sorted(quarantine.glob("ERROR_*.json")):
        path = json_path.with_suffix("")
        if str(path) not in noted:
            try:
                _repair(path, json_path, database)
            except OSError as error:  # one file that cannot be looked at must not end every run
                log.warning("%s: not repaired: %s", printable(path), printable(error))


def _repair(path: Path, json_path: Path, database: Database) -> None:
    """Bring a quarantine JSON that the database does not know to one of its two ends."""
    if not os.path.lexists(path):  # killed before the move: the file is still in its place
        json_path.unlink()
        return
    entry = read_entry(json_path)
    if entry is None or entry.quarantined_at <= database.last_verdict_at(entry.original_file):
        return
    source = Path(entry.original_file)
    with contextlib.suppress(OSError):  # a read-only library, which holds none
        half_copy_of(source).unlink(missing_ok=True)  # killed while --restore-quarantine copied it back
    finish_move(entry)
    drop_wav(database.enter_quarantined(entry))
