"""Kill the program with all its processes, again and again, at moments that are chosen by what it leaves on the disk.

    plan ──► start ──► wait for the sign of a phase ──► SIGKILL to the process group ──► look at what it left ──► again

The dice are seeded; the operating system's scheduling is not: the same seed gives the same plan, not the same moments.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from audio_files import tree
from stem_dataset.output_folders import SCRATCH
from stem_dataset.quarantine import json_path_of
from workplace import Workplace, wait_for_no_process_of

RUN = ("--batch-windows", "3")
RESTORE = ("--restore-quarantine",)
FORGET = ("--forget-missing", "--yes")
# Real CLAP takes longer still: kills fall into its calls, too. Rows are re-based and forgotten in many small steps.
FAULTS = {"slow_s": 0.03, "slow_file_s": 0.01, "constants": {"ROWS_PER_STEP": 3, "ROWS_PER_BATCH": 3}}
POLL_S = 0.0005
END_S = 10.0  # within which no process may be left after a kill

# -- signs: what changes on the disk when a run comes to a phase -------------------------------------------------------


def log_lines(place: Workplace, text: str) -> int:
    """Return how many lines of the log have that text."""
    return place.log_file.read_bytes().count(text.encode()) if place.log_file.exists() else 0


def names_and_times(folder: Path, pattern: str) -> set[tuple[str, int]]:
    """Return what there is, with times: a WAV that is written again counts as new."""
    found = set()
    for path in folder.glob(pattern):
        try:
            found.add((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:  # moved between the two calls
            continue
    return found


def wal_of(place: Workplace) -> Path:
    return place.database.with_name(place.database.name + "-wal")


def wal_state(place: Workplace) -> tuple[int, int]:
    try:
        status = wal_of(place).stat()
    except FileNotFoundError:
        return (0, 0)
    return status.st_size, status.st_mtime_ns


SIGNS: dict[str, Callable[[Workplace], object]] = {
    "started": lambda place: 0,
    "discovering": lambda place: log_lines(place, " begins"),
    "loading": lambda place: log_lines(place, " new"),
    "decoding": lambda place: log_lines(place, "the decoders work"),
    "writing a WAV": lambda place: names_and_times(place.wavs / SCRATCH, "*.wav"),
    "WAV written": lambda place: names_and_times(place.wavs, "??/*.wav"),
    "quarantining": lambda place: names_and_times(place.quarantine, "ERROR_*.json"),
    "quarantined": lambda place: place.quarantined(),
    "embedding": lambda place: log_lines(place, " in one call"),
    "committing": wal_state,
    "committed": lambda place: log_lines(place, " rows written"),
}


@dataclass(frozen=True)
class Kill:
    """When to kill: so long after the disk has changed so many times in the way that is the phase's sign."""

    phase: str
    changes: int
    delay_s: float
    parent_only: bool = False  # the workers have to see to their own end then


LONGEST_DELAY_S = {"started": 1.2, "discovering": 0.03, "loading": 1.5, "decoding": 1.0, "embedding": 0.03}
MOST_CHANGES = {"started": 0, "discovering": 1, "loading": 1, "decoding": 1, "quarantining": 1, "quarantined": 1}
PARENT_ONLY_EVERY = 6
OFTEN = ("writing a WAV", "WAV written", "quarantining", "quarantining", "committing")  # one more of each
FIRST = (
    "quarantining",
    "quarantined",
    "started",
    "WAV written",
    "committing",
    "decoding",
)  # the plan of a short version


def plan(kills: int, dice: random.Random) -> list[Kill]:
    """Return when to kill: each phase as often as any other, and those that write files more often."""
    phases = list(FIRST)
    if kills > len(phases):
        phases = [*SIGNS, *OFTEN] * (1 + kills // (len(SIGNS) + len(OFTEN)))
        dice.shuffle(phases)
    chosen = [kill_in(phase, dice) for phase in phases[:kills]]
    return [replace(kill, parent_only=number % PARENT_ONLY_EVERY == 4) for number, kill in enumerate(chosen)]


def kill_in(phase: str, dice: random.Random) -> Kill:
    """Return a kill in that phase: half of them at its sign, the others a little later."""
    longest_s = LONGEST_DELAY_S.get(phase, 0.01 * dice.randrange(2))
    return Kill(
        phase, dice.randint(1, 4) if phase not in MOST_CHANGES else MOST_CHANGES[phase], dice.uniform(0, longest_s)
    )


# -- one kill ----------------------------------------------------------------------------------------------------------


def start(place: Workplace, flags: tuple[str, ...]) -> subprocess.Popen[str]:
    """Start the program in a process group of its own, its workers, forkserver and resource tracker included."""
    with open(place.folder / "terminal.txt", "a") as terminal:
        return place.start(*flags, faults=FAULTS, start_new_session=True, stdout=terminal, stderr=terminal)


def run_and_kill(place: Workplace, kill: Kill, flags: tuple[str, ...], most_batches: int) -> str | None:
    """Run until `kill` is due, and kill; return what it was killed for, or None where the run came to its end before.

    After `most_batches` it is killed in any case, so that something is left for the next kills.
    """
    process = start(place, flags)
    try:
        reason = wait_for(process, place, kill, most_batches)
        if process.poll() is None:
            process.kill() if kill.parent_only else os.killpg(process.pid, signal.SIGKILL)
        left = wait_for_no_process_of(place, END_S)
    finally:
        if process.returncode is None:  # until its leader is waited for, the group is there
            os.killpg(process.pid, signal.SIGKILL)
        exit_code = process.wait()
    assert left == [], kill
    assert exit_code in (0, -signal.SIGKILL), (place.folder / "terminal.txt").read_text()
    return reason if exit_code == -signal.SIGKILL else None


def wait_for(process: subprocess.Popen[str], place: Workplace, kill: Kill, most_batches: int) -> str:
    """Return once it is time to kill, or the process has ended."""
    sign = SIGNS[kill.phase]
    state, changes = sign(place), 0
    batches = log_lines(place, " rows written")
    while changes < kill.changes and process.poll() is None:
        if log_lines(place, " rows written") >= batches + most_batches:
            return "enough done for one run"
        time.sleep(POLL_S)
        now = sign(place)
        changes += now != state
        state = now
    time.sleep(kill.delay_s)
    return kill.phase


@dataclass
class Toll:
    """How many runs were killed, and in the middle of what."""

    phases: Counter[str] = field(default_factory=Counter)
    traces: Counter[str] = field(default_factory=Counter)
    parent_only: int = 0
    ended_before: int = 0

    def take(self, phase: str | None, kill: Kill, place: Workplace) -> None:
        if phase is None:
            self.ended_before += 1
        else:
            self.phases[phase] += 1
            self.parent_only += kill.parent_only
            self.traces.update(traces_of(place))

    def table(self) -> list[str]:
        """Return the numbers, one a line."""
        counts = [*sorted(self.phases.items()), *((f"  left: {trace}", n) for trace, n in sorted(self.traces.items()))]
        total = f"killed by SIGKILL ({self.parent_only} of them the parent alone), {self.ended_before} ended before"
        return [f"{count:6} {what}" for what, count in [(total, self.phases.total()), *counts]]


def traces_of(place: Workplace) -> Iterator[str]:
    """Yield what a killed run has left half done."""
    rows, verdicts = committed(place)
    named = {row["path"] for row in rows.values()}
    noted = {row["quarantine_path"] for row in verdicts.values()}
    jsons = {path.with_suffix("") for path in place.quarantine.glob("ERROR_*.json")}
    if any((place.wavs / SCRATCH).glob("*.wav")):
        yield "a WAV half written"
    if any(str(path) not in named for path in place.wavs.glob("??/*.wav")):
        yield "a WAV without its row"
    if any(not path.exists() for path in jsons):
        yield "a JSON whose file was not moved yet"
    if any(place.quarantine.glob(".*.tmp")):
        yield "half a copy in quarantine"
    if any(
        path.exists() and Path(json.loads(json_path_of(path).read_text())["original_file"]).exists() for path in jsons
    ):
        yield "a file in its place and in quarantine"
    if any(path.exists() and str(path) not in noted for path in jsons):
        yield "a quarantined file that the database did not know"
    last_run = place.log_file.read_text(encoding="utf-8").rpartition(" begins")[2] if place.log_file.exists() else ""
    if last_run.count(" in one call") > last_run.count(" rows written"):
        yield "a batch embedded, or not yet, and not committed"
    if wal_state(place)[0]:
        yield "a write-ahead log to play back"


def committed(place: Workplace) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the rows of `stems` and of `quarantined` by file, read from a copy: the next run is to recover the real
    one itself."""
    with tempfile.TemporaryDirectory(dir=place.folder) as name:
        copy = Workplace(Path(name))
        copy.database.parent.mkdir()
        for path in (place.database, wal_of(place)):
            if path.exists():
                shutil.copy(path, copy.database.parent)
        try:
            return tuple(  # type: ignore[return-value]  # mypy counts no generator
                {row["original_file"]: row for row in copy.rows(f"SELECT * FROM {table}")}
                for table in ("stems", "quarantined")
            )
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return {}, {}  # killed before the schema was committed


# -- many kills --------------------------------------------------------------------------------------------------------


def kill_runs(place: Workplace, kills: list[Kill]) -> Toll:
    """Start and kill run after run; what one has committed must be there after the next."""
    toll = Toll()
    for number, kill in enumerate(kills):
        rows, verdicts = committed(place)
        left = len([path for path in place.input.rglob("*.*") if path.is_file()]) - len(rows)
        batches_left = left // 3  # of three windows
        most_batches = max(1, batches_left // (len(kills) - number))
        toll.take(run_and_kill(place, kill, RUN, most_batches), kill, place)
        rows_now, verdicts_now = committed(place)
        assert rows.items() <= rows_now.items(), kill
        assert verdicts.items() <= verdicts_now.items(), kill
    return toll


def kill_restores(place: Workplace, kills: int, dice: random.Random) -> Toll:
    """Start and kill --restore-quarantine; each time a few more files are back."""
    toll = Toll()
    for _ in range(kills):
        phase = dice.choice(("quarantining", "quarantined", "committing"))  # their signs are those of the way back
        kill = Kill(phase, dice.randint(1, 2), dice.choice((0, 0, 0.002)))
        toll.take(run_and_kill(place, kill, RESTORE, most_batches=1), kill, place)
    return toll


def kill_re_basing(place: Workplace, elsewhere: Path, kills: int, dice: random.Random) -> Toll:
    """Move the input, and start and kill the runs that re-base its rows; move it again whenever one came to its end."""
    toll = Toll()
    folder = place.input
    for _ in range(kills):
        if all(row["original_file"].startswith(f"{folder}/") for row in place.rows()):
            other = elsewhere if folder == place.input else place.input
            folder = folder.rename(other)
        kill = Kill("committing", dice.randint(1, 12), dice.choice((0, 0, 0.002)))
        toll.take(run_and_kill(place, kill, (*RUN, "--input", str(folder)), most_batches=1), kill, place)
    if folder != place.input:
        folder.rename(place.input)
    return toll


def kill_forgetting(place: Workplace, kills: int, dice: random.Random) -> Toll:
    """Start and kill --forget-missing; each time a few more rows are gone, and none whose file is there."""
    toll = Toll()
    for _ in range(kills):
        rows, _ = committed(place)
        phase = dice.choice(("WAV written", "committing"))  # WAVs that are removed change the same sign
        kill = Kill(phase, dice.randint(1, 3), dice.choice((0, 0, 0.002)))
        toll.take(run_and_kill(place, kill, FORGET, most_batches=1), kill, place)
        rows_now, _ = committed(place)
        assert rows_now.items() <= rows.items(), kill
        assert all(name in rows_now for name in rows if os.path.exists(name)), kill
    return toll


# -- what must be equal ------------------------------------------------------------------------------------------------


def outcome_of(place: Workplace) -> dict[str, Any]:
    """Return all that a run on this folder must always give.

    Left out: times, the run's id, tracebacks, and which of two broken files of the same name got the plain name in
    quarantine and which one the "~2": that hangs on which worker was first, also without a kill. The set of the names
    is compared, and of each original its error and its bytes.
    """
    return {
        "stems": without(place.rows(), "imported_at", "inode"),
        "provenance": without(place.rows("SELECT * FROM provenance"), "first_used_at"),
        "quarantined": without(
            place.rows("SELECT * FROM quarantined ORDER BY original_file"), "quarantined_at", "quarantine_path"
        ),
        "restored": place.rows("SELECT * FROM restored"),
        "integrity": place.rows("PRAGMA integrity_check"),
        "input": tree(place.input),
        "WAVs": {path.name: path.read_bytes() for path in place.wavs.glob("??/*.wav")},
        "names in quarantine": sorted(path.name for path in place.quarantine.iterdir()),
        "verdicts": verdicts_of(place),
    }


def without(rows: list[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


def verdicts_of(place: Workplace) -> dict[str, Any]:
    """Return by original what is in quarantine: its bytes, and what its JSON and the database say of it."""
    paths = {row["original_file"]: row["quarantine_path"] for row in place.rows("SELECT * FROM quarantined")}
    verdicts = {}
    for json_path in place.quarantine.glob("ERROR_*.json"):
        entry = json.loads(json_path.read_text())
        path = Path(entry["path"])
        assert str(path) == str(json_path.with_suffix("")) == paths[entry["original_file"]]
        error = {name: entry["error"][name] for name in ("type", "message")}
        plain_name = re.sub(r"~\d+(\.\w+)$", r"\1", path.name)
        same = {name: entry[name] for name in ("size_bytes", "mtime_ns", "sha256", "link_target", "former")}
        verdicts[entry["original_file"]] = (plain_name, error, same, path.read_bytes(), path.stat().st_mtime_ns)
    return verdicts


def leftovers(place: Workplace) -> list[str]:
    """Return what a finished run must not leave: half a WAV or copy, a WAV that no row names, a write-ahead log."""
    out = place.database.parent
    named = {row["path"] for row in place.rows()}
    unfinished = [
        *(place.wavs / SCRATCH).glob("*"),
        *out.rglob(".*.tmp"),
        *out.glob("*-wal"),
        *out.glob("*-shm"),
    ]
    orphans = [path for path in place.wavs.glob("??/*") if str(path) not in named]
    return [str(path) for path in (*unfinished, *orphans)]
