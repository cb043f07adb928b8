"""benchmarks/fit_key.py: what the constants of the key from audio do."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from rhythms import RATE_HZ, measured
from stem_dataset.music import features
from stem_dataset.music.key import KEY_DEVIATIONS, estimate_keys
from workplace import REPOSITORY


@pytest.fixture
def fit_key(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("fit_key")


def present_place(fit_key: Any) -> tuple[int, ...]:
    return tuple(axis.index(value) for axis, value in zip(fit_key.GRID.values(), fit_key.PRESENT, strict=True))


def test_present_values_give_the_programs_confidences_and_stay_what_they_are(fit_key: Any, tmp_path: Path) -> None:
    examined = fit_key.examine((1, 0))
    assert round(fit_key.PRESENT[1] * RATE_HZ / features.PITCH_HOP) == features.PITCH_CLASS_FRAMES
    assert fit_key.PRESENT[0] == features.FULL_WEIGHT_HZ
    assert estimate_keys(measured(fit_key.a_piece(1, 0).samples, tmp_path).pitch_classes) == pytest.approx(
        examined.confidences[present_place(fit_key)]
    )
    assert fit_key.key.KEY_DEVIATIONS is KEY_DEVIATIONS


def test_few_pieces_give_a_row_for_each_value(fit_key: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit_key.main(["--pieces", "5", "--best", "2", "--workers", "1"]) == 0
    tables = [table.splitlines() for table in capsys.readouterr().out.strip().split("\n\n")]
    assert [len(table) - 2 for table in tables] == [*map(len, fit_key.GRID.values()), 2]
    present = [line for table in tables for line in table if "(now)" in line]
    assert len(present) == len(fit_key.GRID)
    assert len({line.split("|", 2)[2] for line in present}) == 1
    assert " +0.0 ± 0.0 " in present[0]


def test_each_fifth_piece_is_drums_without_a_key(fit_key: Any) -> None:
    keys = [fit_key.a_piece(1, number).key for number in range(10)]
    assert [number for number, key in enumerate(keys) if key is None] == [4, 9]
