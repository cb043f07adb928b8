"""benchmarks/fit_tempo.py: the weights of the tempo can be fitted again."""

from __future__ import annotations

import ast
import importlib
import re
from typing import Any

import pytest

from stem_dataset.music.tempo_weights import DIVISION_WEIGHTS
from workplace import REPOSITORY


@pytest.fixture
def fit_tempo(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("fit_tempo")


def test_tables_are_printed_as_the_module_has_them(fit_tempo: Any) -> None:
    module = fit_tempo.MODULE.read_text(encoding="utf-8")
    assert fit_tempo.with_tables(module, DIVISION_WEIGHTS) == module


def test_few_pieces_give_tables_of_the_modules_shape_and_a_score(
    fit_tempo: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fit_tempo.MODULE.read_bytes()
    assert fit_tempo.main(["--pieces", "18", "--lone", "3", "--others", "5", "--workers", "1"]) == 0
    tables, scores = capsys.readouterr().out.split("  # fmt: skip\n")
    fitted = ast.literal_eval(tables.removeprefix("DIVISION_WEIGHTS = "))
    assert {name: list(map(len, rows)) for name, rows in fitted.items()} == {
        name: list(map(len, rows)) for name, rows in DIVISION_WEIGHTS.items()
    }
    assert fitted != DIVISION_WEIGHTS
    assert re.search(r"^\| all \| 6 \| \d+\.\d % \| \d+\.\d % \|$", scores, re.MULTILINE)
    assert fit_tempo.MODULE.read_bytes() == before


def test_fitted_weights_find_the_tempi_of_their_own_pieces(fit_tempo: Any) -> None:
    pieces = fit_tempo.made(seed=1, count=18, lone_count=3, workers=1)
    fitted = fit_tempo.tables_of(fit_tempo.fit(pieces))
    flat = {name: [[0.0] * len(row) for row in rows] for name, rows in DIVISION_WEIGHTS.items()}
    assert fit_tempo.right(pieces, fitted).mean() > 0.9 > 0.5 > fit_tempo.right(pieces, flat).mean()
