"""Killed at any moment, the next run ends with the same outcome as an unbroken one (design: invariants 2 and 5)."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import kills
from audio_files import tree
from extent import FORGET_KILLS, KILLED_FILES, KILLS, LONG, RESTORE_KILLS, SEED, say
from killed_library import make_library
from workplace import Workplace, needs_proc

pytestmark = needs_proc


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library as it is before any run: runs get copies, always at the same path, since a stem's id hangs on it."""
    folder = tmp_path_factory.mktemp("pristine") / "stems"
    make_library(folder, KILLED_FILES, SEED)
    return folder


class FarQuarantine(Workplace):
    """A workplace whose quarantine is in memory: what is broken is copied there and then removed, not renamed."""

    @property
    def quarantine(self) -> Path:
        return Path("/dev/shm", self.folder.name)


@pytest.fixture(scope="module", params=[Workplace, FarQuarantine] if LONG else [Workplace])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    place: Workplace = request.param(tmp_path_factory.mktemp("killed"))
    place.quarantine.mkdir(parents=True)
    if isinstance(place, FarQuarantine) and place.quarantine.stat().st_dev == place.folder.stat().st_dev:
        pytest.skip("the temporary folder is on the same file system as /dev/shm")
    yield place
    shutil.rmtree(place.quarantine)


@pytest.fixture(scope="module")
def unbroken(place: Workplace, pristine: Path) -> dict[str, object]:
    """What one unbroken run makes of it; then everything is put back to the start."""
    shutil.copytree(pristine, place.input)
    result = place.execute(*kills.RUN)
    assert result.returncode == 0, result.stderr
    outcome = kills.outcome_of(place)
    for folder in (place.folder, place.quarantine):
        shutil.rmtree(folder, ignore_errors=True)
    place.folder.mkdir()
    shutil.copytree(pristine, place.input)
    return outcome


def test_run_killed_again_and_again_ends_as_an_unbroken_one(place: Workplace, unbroken: dict[str, object]) -> None:
    toll = kills.kill_runs(place, kills.plan(KILLS, random.Random(SEED)))
    last = place.execute(*kills.RUN)
    assert last.returncode == 0, last.stderr
    outcome = kills.outcome_of(place)
    for part, expected in unbroken.items():
        assert outcome[part] == expected, part
    assert outcome["integrity"] == [{"integrity_check": "ok"}]
    assert kills.leftovers(place) == []
    assert "nothing new" in place.execute(*kills.RUN).stderr
    assert toll.phases.total() >= KILLS - 1, toll
    say(f"Kills of a run over {KILLED_FILES} files, {type(place).__name__}, seed {SEED}:", *toll.table())


def test_restore_that_is_killed_again_and_again_leaves_the_input_as_it_was(
    place: Workplace, unbroken: dict[str, object], pristine: Path
) -> None:
    assert place.execute(*kills.RUN).returncode == 0  # where the test above has not run
    broken = len(place.quarantined())
    toll = kills.kill_restores(place, RESTORE_KILLS, random.Random(SEED))
    last = place.execute(*kills.RESTORE)
    assert last.returncode == 0, last.stderr
    assert tree(place.input) == tree(pristine)
    assert list(place.quarantine.glob("ERROR_*")) == []
    assert place.rows("SELECT * FROM quarantined") == []
    assert place.execute(*kills.RUN).returncode == 0
    assert kills.outcome_of(place) == unbroken
    say(f"Kills of --restore-quarantine of {broken} files, {type(place).__name__}, seed {SEED}:", *toll.table())


def test_re_basing_that_is_killed_again_and_again_ends_as_if_nothing_was_moved(
    place: Workplace, unbroken: dict[str, object]
) -> None:
    assert place.execute(*kills.RUN).returncode == 0
    toll = kills.kill_re_basing(place, place.folder / "elsewhere", RESTORE_KILLS, random.Random(SEED))
    last = place.execute(*kills.RUN)
    assert last.returncode == 0, last.stderr
    outcome = kills.outcome_of(place)
    for part, expected in unbroken.items():
        assert outcome[part] == expected, part
    assert kills.leftovers(place) == []
    assert "nothing new" in place.execute(*kills.RUN).stderr
    say(f"Kills of re-basing, {type(place).__name__}, seed {SEED}:", *toll.table())


def test_forgetting_that_is_killed_again_and_again_keeps_what_is_there_and_leaves_no_wav(
    place: Workplace, unbroken: dict[str, object], pristine: Path
) -> None:
    assert place.execute(*kills.RUN).returncode == 0
    for folder in sorted(place.input.iterdir())[1:]:
        shutil.rmtree(folder)
    expected = [row for row in place.rows() if Path(row["original_file"]).exists()]
    gone = len(place.rows()) - len(expected)
    assert gone > len(expected) > 0
    toll = kills.kill_forgetting(place, FORGET_KILLS, random.Random(SEED))
    last = place.execute(*kills.FORGET)
    assert last.returncode == 0, last.stderr
    assert place.rows() == expected
    assert place.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    assert kills.leftovers(place) == []
    assert {str(path) for path in place.wavs.glob("??/*.wav")} == {row["path"] for row in expected}
    # The files that come back are imported anew, as if they had never been forgotten.
    shutil.copytree(pristine, place.input, dirs_exist_ok=True)
    for row in place.rows("SELECT * FROM quarantined"):
        Path(row["original_file"]).unlink()
    assert place.execute(*kills.RUN).returncode == 0
    assert kills.outcome_of(place) == unbroken
    say(f"Kills of --forget-missing of {gone} rows, {type(place).__name__}, seed {SEED}:", *toll.table())
