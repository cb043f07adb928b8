"""benchmarks/bench_names.py: how right the rules are that read names."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from workplace import REPOSITORY

LABELS = (
    ("repo", "path", "categories", "bpm", "key", "is_loop"),
    ("a", "Kicks/Kick_01.wav", "kick", "null", "null", "null|false"),
    ("a", "Loops/Bass_Loop_128bpm_Am.wav", "bass", "127|128", "Am", "true|null"),
    ("a", "Synths/lead 90bpm.wav", "pad", "180", "null", "null"),
    ("b", "FX/0007.wav", "fx", "70", "null", "null"),
    ("b", "Vox/voice_Cmin.wav", "vocal|unknown", "null", "Cm", "null"),
)
SCORES = [
    "categories: precision 75.0 % of 4, recall 50.0 % of 4",
    "bpm: precision 50.0 % of 2, recall 33.3 % of 3",
    "key: precision 100.0 % of 2, recall 100.0 % of 2",
    "is_loop: precision 100.0 % of 1, recall none",
]


@pytest.fixture
def bench_names(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("bench_names")


def write_table(path: Path, rows: tuple[tuple[str, ...], ...]) -> str:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_precision_is_of_the_answers_given_and_recall_of_those_due(
    bench_names: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_names.main([write_table(tmp_path / "labels.tsv", LABELS)]) == 0
    assert capsys.readouterr().out.splitlines() == SCORES


def test_misses_are_the_wrong_and_the_missing_answers(
    bench_names: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_names.main([write_table(tmp_path / "labels.tsv", LABELS), "--misses"]) == 0
    misses = [line.strip() for line in capsys.readouterr().out.splitlines() if line not in SCORES]
    assert misses == [
        "Synths/lead 90bpm.wav: lead, not pad",
        "FX/0007.wav: None, not fx",
        "Synths/lead 90bpm.wav: 90, not 180",
        "FX/0007.wav: None, not 70",
    ]


def test_names_are_counted_by_the_category_that_catches_them(
    bench_names: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_table(tmp_path / "labels.tsv", LABELS)
    paths = write_table(
        tmp_path / "paths.tsv", (("repo", "path"), ("c", "Kicks/a.wav"), ("c", "x.wav"), ("c", "y.wav"))
    )
    assert bench_names.main([labels, paths, "--caught", "none"]) == 0
    counted = capsys.readouterr().out.splitlines()[len(SCORES) :]
    assert list(map(str.strip, counted)) == ["the 3 names of the full list:", "none: 2", "kick: 1", "x.wav", "y.wav"]
