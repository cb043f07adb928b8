"""A library, its stems or its quarantine in another place: rows are re-based, and nothing is read."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audio_files import tree, use_inline_workers, write_text, write_tone
from fake_clap import FakeClap
from patching import replace_name
from prepare_dataset_sql import main
from records import PROVENANCE, record
from stem_dataset.database.moves import rebase_rows
from stem_dataset.database.stems import Database
from stem_dataset.quarantine import json_path_of, read_entry
from stem_dataset.summary import Summary
from workplace import Workplace, use_quick_analysis


@pytest.fixture
def a(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A project in the folder `a`: five tones in two folders, one broken file, and what a run made of them."""
    use_inline_workers(monkeypatch)
    use_quick_analysis(monkeypatch)
    place = Workplace(tmp_path / "a")
    for number in range(5):
        folder = "Kicks" if number < 3 else "Äther"
        write_tone(place.input / folder / f"{number}.wav", hz=100 + 100 * number)
    write_text(place.input / "Kicks" / "broken.wav")
    place.run()
    place.change("UPDATE stems SET user_rating = CAST(substr(original_file, -5, 1) AS INTEGER)")
    return place


def moved(place: Workplace, name: str = "b") -> Workplace:
    """Move a project to another folder."""
    place.folder.rename(place.folder.with_name(name))
    return Workplace(place.folder.with_name(name))


@contextlib.contextmanager
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail where an audio file is opened, or CLAP or a worker is started."""

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a file was read")

    with monkeypatch.context() as patch:
        for name in ("open_regular", "LocalBackend"):
            replace_name(patch, name, refuse)
        yield


def run_without_reading(place: Workplace, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Summary:
    with nothing_is_read(monkeypatch):
        clap = FakeClap()
        summary = place.run(clap, **settings)
    assert clap.call_sizes == []
    return summary


def ratings(place: Workplace) -> dict[str, int]:
    root = os.path.realpath(place.input)
    return {os.path.relpath(row["original_file"], root): row["user_rating"] for row in place.rows()}


def kept(row: dict[str, Any]) -> dict[str, Any]:
    return {column: value for column, value in row.items() if column not in ("original_file", "path", "inode")}


RATINGS = {"Kicks/0.wav": 0, "Kicks/1.wav": 1, "Kicks/2.wav": 2, "Äther/3.wav": 3, "Äther/4.wav": 4}


def check_wavs(place: Workplace) -> None:
    assert {row["path"] for row in place.rows()} == {str(wav) for wav in place.wavs.glob("??/*.wav")}


def test_a_project_that_was_moved_is_re_based_without_reading_a_file(
    a: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = a.rows()
    b = moved(a)
    summary = run_without_reading(b, monkeypatch)
    assert (summary.moved, summary.inserted, summary.already_done, summary.vanished) == (5, 5, 0, 0)
    assert "5 moved" in str(summary)
    assert ratings(b) == RATINGS
    check_wavs(b)
    same = [column for column in before[0] if column not in ("original_file", "path", "inode")]
    assert [[row[column] for column in same] for row in b.rows()] == [
        [row[column] for column in same] for row in before
    ]
    assert run_without_reading(b, monkeypatch).already_done == 5


def test_quarantined_files_go_back_to_the_new_place(a: Workplace) -> None:
    b = moved(a)
    b.run()
    assert main([*b.flags()[2:], "--restore-quarantine"]) == 0
    assert (b.input / "Kicks" / "broken.wav").read_text() == "no audio at all"
    assert not a.folder.exists()
    assert b.quarantined() == []
    assert b.rows("SELECT * FROM quarantined") == []


def test_quarantined_files_go_back_to_the_new_place_without_a_run_before(a: Workplace) -> None:
    b = moved(a)
    assert main([*b.flags()[2:], "--restore-quarantine"]) == 0
    assert (b.input / "Kicks" / "broken.wav").exists()
    assert not a.folder.exists()


def test_a_run_that_is_killed_while_it_follows_the_quarantine_is_finished_by_the_next(
    a: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    elsewhere = a.folder / "elsewhere"
    a.quarantine.rename(elsewhere)
    with monkeypatch.context() as patch:
        replace_name(patch, "relocate_entry", killed)
        with pytest.raises(KeyboardInterrupt):
            a.run(quarantine=elsewhere)
    a.run(quarantine=elsewhere)
    path = next(elsewhere.glob("ERROR_*.wav"))
    entry = read_entry(json_path_of(path))
    assert entry is not None
    assert entry.path == str(path)
    assert a.rows("SELECT quarantine_path FROM quarantined") == [{"quarantine_path": str(path)}]


def test_a_quarantine_that_was_moved_alone_is_found(a: Workplace) -> None:
    elsewhere = a.folder / "elsewhere"
    a.quarantine.rename(elsewhere)
    a.run(quarantine=elsewhere)
    assert a.rows("SELECT quarantine_path FROM quarantined") == [
        {"quarantine_path": str(next(elsewhere.glob("ERROR_*.wav")))}
    ]
    assert main([*a.flags(), "--quarantine", str(elsewhere), "--restore-quarantine"]) == 0
    assert (a.input / "Kicks" / "broken.wav").exists()


def test_a_dry_run_says_how_many_rows_would_be_re_based_and_writes_nothing(
    a: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    b = moved(a)
    write_tone(b.input / "new.wav", hz=900)
    before = tree(b.folder)
    assert main([*b.flags(), "--dry-run"]) == 0
    output = capsys.readouterr()
    assert f"moved from {a.input} to {b.input}: 5 rows would be re-based" in output.err
    assert output.out == f"{b.input / 'new.wav'}\n"
    assert tree(b.folder) == before


def test_changes_since_the_move_are_found(a: Workplace) -> None:
    b = moved(a)
    write_tone(b.input / "Kicks" / "0.wav", hz=950)  # edited in place
    (b.input / "Kicks" / "1.wav").unlink()
    write_tone(b.input / "new.wav", hz=900)
    summary = b.run()
    assert (summary.moved, summary.inserted, summary.vanished) == (3, 5, 1)
    assert ratings(b) == {**RATINGS, "new.wav": None}
    assert b.run().already_done == 5


def test_a_copied_library_has_rows_of_its_own(a: Workplace) -> None:
    shutil.copytree(a.input, a.folder / "copy")
    summary = a.run(input=a.folder / "copy")
    assert (summary.copied, summary.moved) == (5, 0)
    assert len(a.rows()) == 10


def test_a_library_copied_to_another_disk_and_removed_here_is_re_based(
    a: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its inodes are others; with equal times, too, no file is read."""
    for path in a.input.rglob("*.wav"):
        os.utime(path, ns=(1, 1_600_000_000_000_000_000))
    a.run()
    other = a.folder / "other disk"
    shutil.copytree(a.input, other)
    shutil.rmtree(a.input)
    assert run_without_reading(a, monkeypatch, input=other).moved == 5
    assert run_without_reading(a, monkeypatch, input=other).already_done == 5
    (other / "Kicks" / "0.wav").rename(other / "t")
    (other / "Kicks" / "1.wav").rename(other / "Kicks" / "0.wav")
    (other / "t").rename(other / "Kicks" / "1.wav")
    assert a.run(input=other).moved == 2


def test_the_same_folder_under_another_name_is_the_same_library(a: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a second mount point: both names answer, and are one folder."""
    (a.folder / "elsewhere").mkdir()
    elsewhere = a.folder / "elsewhere" / "stems"
    a.input.rename(elsewhere)
    a.input.symlink_to(elsewhere)
    assert run_without_reading(a, monkeypatch, input=elsewhere).moved == 5
    assert run_without_reading(a, monkeypatch, input=elsewhere).already_done == 5
    a.input.unlink()
    elsewhere.rename(a.input)
    elsewhere.symlink_to(a.input)
    assert run_without_reading(a, monkeypatch).moved == 5
    assert ratings(a) == RATINGS


def test_a_part_of_a_library_that_was_moved_alone_is_re_based(a: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = a.folder / "alone"
    (a.input / "Kicks").rename(alone)
    assert run_without_reading(a, monkeypatch, input=alone).moved == 3
    assert len(a.rows()) == 5


def test_a_few_files_in_another_place_go_by_their_bytes(a: Workplace) -> None:
    other = a.folder / "other"
    other.mkdir()
    (a.input / "Kicks" / "0.wav").rename(other / "0.wav")
    shutil.move(a.input / "Kicks", a.folder / "hidden")
    summary = a.run(input=other)
    assert summary.moved == 1
    assert len(a.rows(f"SELECT * FROM stems WHERE original_file LIKE '{a.input}/Kicks/%'")) == 2


def test_moved_stems_are_followed(a: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = a.folder / "wavs"
    a.wavs.rename(elsewhere)
    run_without_reading(a, monkeypatch, stems=elsewhere)
    assert {row["path"] for row in a.rows()} == {str(wav) for wav in elsewhere.glob("??/*.wav")}
    # Some rows have theirs in a second folder: those stay.
    second = a.folder / "second"
    write_tone(a.input / "new.wav", hz=900)
    a.run(stems=second)
    assert sorted(Path(row["path"]).parts[-3] for row in a.rows()) == ["second", *["wavs"] * 5]
    assert all(Path(row["path"]).exists() for row in a.rows())


@pytest.mark.parametrize("step", ["relocate_entry", "rebase_others", "rebase_rows", "note_folder"])
def test_killed_while_re_basing_the_next_run_goes_on(step: str, a: Workplace) -> None:
    b = moved(a)
    assert b.execute(faults={"kill_after": {step: 1}}).returncode == -9
    b.run()
    assert ratings(b) == RATINGS
    check_wavs(b)
    assert main([*b.flags()[2:], "--restore-quarantine"]) == 0
    assert (b.input / "Kicks" / "broken.wav").exists()
    assert not a.folder.exists()


# -- names ------------------------------------------------------------------------------------------------------------

LATIN_1 = os.fsdecode(b"/\xe9t\xe9")


@pytest.mark.parametrize("new", ["/b", "/bü/c", LATIN_1, "/a2"])
@pytest.mark.parametrize("old", ["/a", "/äöü/x y", LATIN_1 + "/x"])
def test_each_name_keeps_its_bytes_below_the_new_root(old: str, new: str, database: Database) -> None:
    names = ["/k.wav", "/Ä/k.wav", LATIN_1 + "/k.wav", "/%_'?/k.wav"]
    others = [f"{old}3/k.wav", f"{old}.wav", "/0.wav"]
    database.insert([record(path) for path in [*(old + name for name in names), *others]], PROVENANCE)
    assert rebase_rows(database, old, new) == 4
    rows = database.connection.execute("SELECT original_file FROM stems ORDER BY rowid").fetchall()
    assert [path for (path,) in rows] == [*(new + name for name in names), *others]
    database.connection.text_factory = str
    printed = database.connection.execute("SELECT original_file FROM library").fetchall()
    assert {path for (path,) in printed} == {
        os.fsencode(path).decode("utf-8", "backslashreplace") for path in [*(new + name for name in names), *others]
    }


def test_many_rows_are_re_based_step_by_step(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.insert([record(f"/a/{number}.wav") for number in range(25)], PROVENANCE)
    database.insert([record("/b/7.wav", id="taken")], PROVENANCE)
    replace_name(monkeypatch, "ROWS_PER_STEP", 4)
    assert rebase_rows(database, "/a", "/b") == 24
    paths = {path for (path,) in database.connection.execute("SELECT original_file FROM stems")}
    assert paths == {"/a/7.wav", *(f"/b/{number}.wav" for number in range(25))}
