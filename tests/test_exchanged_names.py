"""Files that exchange their names: each row follows its bytes, though every path still exists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audio_files import use_inline_workers, write_text, write_tone
from fake_clap import FakeClap
from patching import replace_name
from stem_dataset.datatypes import FoundFile
from stem_dataset.duplicates import plan_moves
from workplace import Workplace, use_quick_analysis

NAMES = [f"kick_{number:02}.wav" for number in range(1, 6)]


@pytest.fixture
def place(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Five imported tones, kick_01.wav to kick_05.wav, of one size; each has the rating of its number."""
    use_inline_workers(monkeypatch)
    use_quick_analysis(monkeypatch)
    for number, name in enumerate(NAMES, start=1):
        write_tone(workplace.input / name, hz=100 * number)
    workplace.run()
    workplace.change("UPDATE stems SET user_rating = CAST(substr(original_file, -6, 2) AS INTEGER)")
    workplace.change(
        "INSERT INTO corrections (stem_id, column_name, value) SELECT id, 'bpm', 100 + user_rating FROM stems"
    )
    return workplace


def told(place: Workplace) -> dict[str, tuple[Any, ...]]:
    """Return the rating and corrected tempo of each file that is there, by name."""
    rows = place.rows("SELECT file_name, original_file, user_rating, bpm FROM library")
    return {row["file_name"]: (row["user_rating"], row["bpm"]) for row in rows if os.path.exists(row["original_file"])}


def by_number(**numbers: int) -> dict[str, tuple[Any, ...]]:
    """Return what `told` returns if each file has what the file of that number had."""
    return {f"{name}.wav": (number, 100.0 + number) for name, number in numbers.items()}


def check_rows(place: Workplace) -> None:
    """Each row describes the file at its path: bytes, size, time and WAV."""
    clap = FakeClap()
    assert place.run(clap).inserted == 0
    assert clap.call_sizes == []
    for row in place.rows():
        path = Path(row["original_file"])
        if path.exists():
            assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert (row["size_bytes"], row["mtime_ns"]) == (path.stat().st_size, path.stat().st_mtime_ns)
        assert Path(row["path"]).exists()
    assert {str(wav) for wav in place.wavs.glob("??/*.wav")} == {row["path"] for row in place.rows()}


def rename(place: Workplace, **names: str) -> None:
    """Give files other names, all at once."""
    for old in names:
        (place.input / f"{old}.wav").rename(place.input / f"{old}.aside")
    for old, new in names.items():
        (place.input / f"{old}.aside").rename(place.input / f"{new}.wav")


def test_ratings_and_corrections_follow_renumbered_files(place: Workplace) -> None:
    ids = {row["user_rating"]: row["id"] for row in place.rows()}
    (place.input / "kick_01.wav").unlink()
    rename(place, kick_02="kick_01", kick_03="kick_02", kick_04="kick_03", kick_05="kick_04")
    clap = FakeClap()
    summary = place.run(clap)
    assert (summary.moved, summary.inserted, clap.call_sizes) == (4, 4, [])
    assert told(place) == by_number(kick_01=2, kick_02=3, kick_03=4, kick_04=5)
    assert {row["user_rating"]: row["id"] for row in place.rows()} == ids
    check_rows(place)


def test_the_row_of_a_file_whose_name_another_took_is_kept_until_its_bytes_come_back(place: Workplace) -> None:
    first = (place.input / "kick_01.wav").read_bytes()
    (place.input / "kick_01.wav").unlink()
    rename(place, kick_02="kick_01")
    place.run()
    assert place.run().vanished == 1
    (place.input / "found again.wav").write_bytes(first)
    assert place.run().moved == 1
    assert told(place) == {
        **by_number(kick_01=2, kick_03=3, kick_04=4, kick_05=5),
        "found again.wav": (1, 101.0),
    }
    assert place.run().vanished == 0


def test_a_cycle_of_names_moves_every_row(place: Workplace) -> None:
    rename(place, kick_01="kick_02", kick_02="kick_03", kick_03="kick_01")
    assert place.run().moved == 3
    assert told(place) == by_number(kick_02=1, kick_03=2, kick_01=3, kick_04=4, kick_05=5)
    check_rows(place)


def test_two_files_of_one_size_and_time_that_were_swapped_are_noticed(place: Workplace) -> None:
    for name in NAMES:
        os.utime(place.input / name, ns=(1, 1_600_000_000_000_000_000))
    place.run()
    rename(place, kick_01="kick_02", kick_02="kick_01")
    clap = FakeClap()
    summary = place.run(clap)
    assert (summary.already_done, summary.moved, clap.call_sizes) == (3, 2, [])
    assert told(place) == by_number(kick_02=1, kick_01=2, kick_03=3, kick_04=4, kick_05=5)
    check_rows(place)


def test_other_inodes_alone_have_only_files_of_one_size_and_time_hashed_and_once(place: Workplace) -> None:
    for name in NAMES[:3]:
        os.utime(place.input / name, ns=(1, 1_600_000_000_000_000_000))
    place.run()
    for name in NAMES:  # as a backup that is put back
        path = place.input / name
        path.rename(path.with_suffix(".old"))
        write_tone(path, hz=100 * int(name[5:7]))
        old = path.with_suffix(".old").stat()
        os.utime(path, ns=(old.st_mtime_ns, old.st_mtime_ns))
    for name in NAMES:
        (place.input / name).with_suffix(".old").unlink()
    summary = place.run()
    assert (summary.already_done, summary.vectors_kept, summary.inserted) == (2, 3, 3)
    assert told(place) == by_number(kick_01=1, kick_02=2, kick_03=3, kick_04=4, kick_05=5)
    check_rows(place)


def test_rows_without_an_inode_get_one_without_a_file_being_read(place: Workplace) -> None:
    for name in NAMES:
        os.utime(place.input / name, ns=(1, 1_600_000_000_000_000_000))
    place.run()
    place.change("UPDATE stems SET inode = NULL")  # as after a migration
    assert place.run().already_done == 5
    rename(place, kick_01="kick_02", kick_02="kick_01")
    assert place.run().moved == 2


def test_a_file_that_was_edited_in_place_keeps_id_and_rating_while_others_are_renamed(place: Workplace) -> None:
    (before,) = place.rows("SELECT id FROM stems WHERE user_rating = 3")
    write_tone(place.input / "kick_03.wav", hz=999)
    rename(place, kick_01="kick_02", kick_02="kick_01")
    summary = place.run()
    assert (summary.moved, summary.inserted) == (2, 3)
    assert told(place) == by_number(kick_02=1, kick_01=2, kick_03=3, kick_04=4, kick_05=5)
    assert place.rows("SELECT id FROM stems WHERE user_rating = 3") == [before]
    check_rows(place)


def test_a_file_moved_over_another_brings_its_row(place: Workplace) -> None:
    (place.input / "kick_01.wav").replace(place.input / "kick_02.wav")
    assert place.run().moved == 1
    assert told(place) == by_number(kick_02=1, kick_03=3, kick_04=4, kick_05=5)
    check_rows(place)


def test_a_file_overwritten_with_a_copy_of_another_keeps_its_own_row(place: Workplace) -> None:
    (place.input / "kick_02.wav").write_bytes((place.input / "kick_01.wav").read_bytes())
    summary = place.run()
    assert (summary.moved, summary.copied) == (0, 1)
    assert told(place) == by_number(kick_01=1, kick_02=2, kick_03=3, kick_04=4, kick_05=5)
    check_rows(place)


def test_a_new_file_under_the_name_of_a_renamed_one_gets_a_row_of_its_own(place: Workplace) -> None:
    rename(place, kick_01="kick_99")
    write_tone(place.input / "kick_01.wav", hz=999, seconds=1)
    summary = place.run()
    assert (summary.moved, summary.inserted) == (1, 2)
    assert told(place) == {
        **by_number(kick_99=1, kick_02=2, kick_03=3, kick_04=4, kick_05=5),
        "kick_01.wav": (None, None),
    }
    check_rows(place)


def test_names_exchanged_across_the_parts_of_a_run(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_name(monkeypatch, "TRIAL_FILES", 1)
    replace_name(monkeypatch, "FILES_PER_PART", 1)
    rename(place, kick_05="kick_01", kick_01="zz")
    write_tone(place.input / "kick_05.wav", hz=999)
    assert place.run().moved == 2
    assert told(place) == {
        **by_number(kick_01=5, zz=1, kick_02=2, kick_03=3, kick_04=4),
        "kick_05.wav": (None, None),
    }
    check_rows(place)


def test_a_limit_takes_no_row_from_a_file_that_it_leaves_for_the_next_run(place: Workplace) -> None:
    rename(place, kick_01="kick_02", kick_02="kick_03", kick_03="kick_04", kick_04="kick_05", kick_05="kick_01")
    assert place.run(limit=1).inserted == 1
    assert place.run().inserted == 4
    assert told(place) == by_number(kick_02=1, kick_03=2, kick_04=3, kick_05=4, kick_01=5)
    check_rows(place)


def test_a_broken_file_in_the_place_of_a_renamed_one(place: Workplace) -> None:
    size = (place.input / "kick_01.wav").stat().st_size
    rename(place, kick_01="kick_02", kick_02="kick_03", kick_03="kick_06")
    write_text(place.input / "kick_01.wav", "x" * size)
    summary = place.run()
    assert (summary.moved, summary.quarantined) == (3, 1)
    assert told(place) == by_number(kick_02=1, kick_03=2, kick_06=3, kick_04=4, kick_05=5)
    check_rows(place)


@pytest.mark.parametrize("step", ["move_rows", "Database.take_over"])
def test_killed_after_rows_have_moved_the_next_run_finishes(step: str, place: Workplace) -> None:
    rename(place, kick_01="snare_02", kick_02="kick_01")
    rename(place, snare_02="kick_02")
    result = place.execute(faults={"kill_after": {step: 1}})
    assert result.returncode == -9
    place.run()
    assert told(place) == by_number(kick_02=1, kick_01=2, kick_03=3, kick_04=4, kick_05=5)
    check_rows(place)


# -- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "rows", "gone", "expected"),
    [
        # A cycle.
        (
            {"/1": "B", "/2": "C", "/3": "A"},
            {"/1": "A", "/2": "B", "/3": "C"},
            "",
            {"/1": "/3", "/2": "/1", "/3": "/2"},
        ),
        # New content: its row stays.
        ({"/1": "X"}, {"/1": "A"}, "", {}),
        # A copy: the other file still has its bytes.
        ({"/1": "B"}, {"/1": "A", "/2": "B"}, "", {}),
        # A file that was moved over another.
        ({"/1": "B"}, {"/1": "A", "/2": "B"}, "/2", {"/2": "/1"}),
        # Two rows of the same bytes, two places: each row moves once, the oldest first.
        ({"/3": "A", "/4": "A", "/5": "A"}, {"/1": "A", "/2": "A"}, "/1 /2", {"/1": "/3", "/2": "/4"}),
        # A file that still has its row's bytes takes no other row.
        ({"/1": "A", "/3": "A"}, {"/1": "A", "/2": "A"}, "/2", {"/2": "/3"}),
    ],
)
def test_the_plan_of_moves(files: dict[str, str], rows: dict[str, str], gone: str, expected: dict[str, str]) -> None:
    by_digest: dict[str, list[tuple[str, str]]] = {digest: [] for digest in files.values()}
    for path, digest in rows.items():
        by_digest.setdefault(digest, []).append((path, path))  # the id is the path
    is_free: Callable[[str, str], bool] = lambda path, digest: path in gone or files.get(path, digest) != digest  # noqa: E731
    found = [FoundFile(path, 1, 1) for path in files]
    assert plan_moves(found, files, by_digest, is_free) == expected
