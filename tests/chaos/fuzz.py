"""Thousands of spoilt audio files, one run over all of them, and what must be true of each file afterwards."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mutations import Sound, mutated, valid_sounds
from workplace import Workplace

CONFIG = """\
file_timeout_s: 20
max_duration_s: 600  # headers claim hours
"""
RUN_S = 1_500.0  # a generous limit: 2,400 files take a minute where none hangs, and a hanging one takes 40 s


@dataclass(frozen=True)
class Fuzzed:
    """One spoilt file as it was written."""

    path: Path
    format: str
    sha256: str


def write_fuzzed(folder: Path, files: int, seed: int) -> list[Fuzzed]:
    """Write so many spoilt files, of each format in turn, a hundred a folder."""
    dice = random.Random(seed)
    sounds = valid_sounds()
    dice.shuffle(sounds)  # so that a few are of every container
    return [write(folder, number, mutated(sounds[number % len(sounds)], sounds, dice)) for number in range(files)]


def write(folder: Path, number: int, sound: Sound) -> Fuzzed:
    path = folder / f"{number // 100:02}" / f"{sound.format.replace(' ', '_').lower()}_{number}.{sound.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sound.content)
    return Fuzzed(path, sound.format, hashlib.sha256(sound.content).hexdigest())


def run(place: Workplace) -> dict[str, Any]:
    """Run the program over the input to its end; return its report."""
    (place.folder / "config.yaml").write_text(CONFIG)
    with place.start("--report", "report.json", faults={"measure": True}) as process:
        try:
            _, stderr = process.communicate(timeout=RUN_S)
        finally:
            process.kill()
    assert process.returncode in (0, 1), stderr
    report: dict[str, Any] = json.loads((place.folder / "report.json").read_text())
    return report


@dataclass(frozen=True)
class Outcomes:
    """What became of each file, by its path in the input: a row, a quarantined file's JSON, or nothing."""

    rows: dict[str, dict[str, Any]]
    jsons: dict[str, dict[str, Any]]

    def of(self, file: Fuzzed) -> str:
        """Return the outcome in a word; raises AssertionError where it is none that a file may have."""
        row, entry = self.rows.get(str(file.path)), self.jsons.get(str(file.path))
        assert row is None or entry is None, f"{file}: in the database and in quarantine"
        where = Path(entry["path"]) if entry else file.path
        assert hashlib.sha256(where.read_bytes()).hexdigest() == file.sha256, f"{file}: bytes were lost"
        if entry:
            assert entry["sha256"] == file.sha256
            return str(entry["error"]["type"])
        if row:
            assert_ingested(row, file)
            return "ingested"
        return "in place"


def outcomes_in(place: Workplace) -> Outcomes:
    entries = [json.loads(path.read_text()) for path in place.quarantine.glob("ERROR_*.json")]
    return Outcomes(
        {row["original_file"]: row for row in place.rows()}, {entry["original_file"]: entry for entry in entries}
    )


def assert_ingested(row: dict[str, Any], file: Fuzzed) -> None:
    """A row has a finite unit vector, numbers that can be, and its WAV, which can be read."""
    vector = np.frombuffer(row["clap_embedding"], "<f4")
    assert np.isfinite(vector).all(), file
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-3, file
    wav = soundfile.info(row["path"])
    assert (wav.samplerate, wav.channels, wav.subtype) == (48_000, 1, "PCM_24"), file
    assert wav.frames >= 1, file
    assert abs(wav.frames / 48_000 - row["duration_s"]) <= 1 / 48_000 + 1 / row["sample_rate_hz"], file
    assert row["sha256"] == file.sha256, file
    json.loads(row["features"], parse_constant=refuse)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def table(files: list[Fuzzed], outcomes: Outcomes) -> list[str]:
    """Return how many files of each container had which outcome, one container a line."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for file in files:
        counts[file.format.split()[0]][outcomes.of(file)] += 1
        counts["all"][outcomes.of(file)] += 1
    return [
        f"{sum(count.values()):6} {container:6} " + ", ".join(f"{n} {outcome}" for outcome, n in count.most_common())
        for container, count in sorted(counts.items(), key=lambda item: (item[0] == "all", item[0]))
    ]
