"""The same sound under several names: copies, moved and renamed files, files that are gone, files tagged anew."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import prepare_dataset_sql as product
from audio_files import write_tone
from fake_clap import BrokenClap, FakeClap
from patching import replace_name
from stem_dataset.clap.checkpoints import Weights
from stem_dataset.datatypes import FoundFile, KnownRow
from stem_dataset.duplicates import plan
from stem_dataset.summary import Summary
from tagged_files import ROOT_NOTE_SET, acid, id3
from workplace import Workplace

NAME_INDEPENDENT = ("sha256", "samples_sha256", "duration_s", "sample_rate_hz", "channels", "tags", "clap_embedding")


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """An input with a loop of two bars at 120 bpm and a tone of another length."""
    place = Workplace(tmp_path)
    (place.input / "Loops").mkdir(parents=True)
    write_loop(place.input / "Loops" / "Bass Loop 120bpm Am.wav")
    write_tone(place.input / "kick.wav", 60)
    return place


def write_loop(path: Path) -> None:
    """Write four seconds with a click on each beat of 120 bpm and a chord under them."""
    time_s = np.arange(4 * 48_000) / 48_000
    chord = sum(np.sin(2 * np.pi * hz * time_s) for hz in (220.0, 261.63, 329.63)) / 12
    clicks = np.where(time_s % 0.5 < 0.005, 0.5, 0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, chord + clicks, 48_000, subtype="PCM_24")


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(source, target))


def by_name(place: Workplace) -> dict[str, dict[str, Any]]:
    """Return the rows by their file's path under the input."""
    return {os.path.relpath(row["original_file"], os.path.realpath(place.input)): row for row in place.rows()}


def rate(place: Workplace, name: str, rating: int) -> None:
    path = os.path.join(os.path.realpath(place.input), name)
    with sqlite3.connect(place.database) as connection:
        assert connection.execute(
            "UPDATE stems SET user_rating = ? WHERE original_file = ?", (rating, path)
        ).rowcount == 1  # fmt: skip
    connection.close()


def without(row: Mapping[str, Any], *columns: str) -> dict[str, Any]:
    return {column: value for column, value in row.items() if column not in columns}


def run_without_clap(place: Workplace, **settings: Any) -> Summary:
    """Run; CLAP must not be loaded."""

    def refuse(*_: object) -> Any:
        raise AssertionError("CLAP is loaded")

    preparer = product.DatasetPreparer(place.config(**settings), load_model=refuse, show_progress=False)
    summary = preparer.run()
    assert summary.sum_closes
    return summary


# ----------------------------------------------------------------------------------------------------------- duplicates


def test_copies_are_embedded_once_and_each_has_a_row_judged_by_its_own_name(place: Workplace) -> None:
    loop = place.input / "Loops" / "Bass Loop 120bpm Am.wav"
    copy(loop, place.input / "Loops" / "Piano Loop 60bpm Cm.wav")
    copy(loop, place.input / "One Shots" / "Gtr.wav")
    model = FakeClap()
    summary = place.run(model)
    assert (summary.inserted, summary.copied) == (4, 2)
    assert model.call_sizes == [2]
    rows = by_name(place)
    told = {name: (row["bpm"], row["key"], row["category"]) for name, row in rows.items()}
    assert told["Loops/Bass Loop 120bpm Am.wav"] == (120, "Am", "bass")
    assert told["Loops/Piano Loop 60bpm Cm.wav"] == (60, "Cm", "keys")
    assert told["One Shots/Gtr.wav"][::2] == (None, "guitar")
    first = rows["Loops/Bass Loop 120bpm Am.wav"]
    for row in rows.values():
        if row["sha256"] == first["sha256"]:
            assert [row[column] for column in NAME_INDEPENDENT] == [first[column] for column in NAME_INDEPENDENT]
    assert len({row["id"] for row in rows.values()}) == 4


def test_the_tags_in_a_file_decide_under_each_name_that_says_nothing(place: Workplace) -> None:
    """The loop has two bars at 120 BPM, and its tags say that these are four beats in D minor."""
    loop = place.input / "Loops" / "Bass Loop 120bpm Am.wav"
    content = loop.read_bytes()
    chunks = b"acid" + struct.pack("<I", 24) + acid(ROOT_NOTE_SET, root_note=50, beats=4)
    tag = id3({"TKEY": "7A"})
    loop.write_bytes(content + chunks + b"id3 " + struct.pack("<I", len(tag)) + tag)
    copy(loop, place.input / "first.wav")
    place.run()
    copy(loop, place.input / "second.wav")
    assert place.run().copied == 1
    rows = by_name(place)
    assert (rows["Loops/Bass Loop 120bpm Am.wav"]["bpm"], rows["Loops/Bass Loop 120bpm Am.wav"]["key"]) == (120, "Am")
    for name in ("first.wav", "second.wav"):
        features = json.loads(rows[name]["features"])
        assert (rows[name]["bpm"], rows[name]["key"], features["root_note"]) == (60, "Dm", 50)
        assert (features["bpm_source"], features["key_source"]) == ("tag", "tag")


def test_a_copys_row_is_that_of_a_file_that_was_decoded(place: Workplace, tmp_path: Path) -> None:
    names = ["Loops/Piano Loop 60bpm Cm.wav", "One Shots/Gtr.wav", "nothing.wav"]
    for name in names:
        copy(place.input / "Loops" / "Bass Loop 120bpm Am.wav", place.input / name)
    assert place.run().copied == 3
    for name in names:
        alone = Workplace(tmp_path / "alone" / Path(name).stem)
        copy(place.input / name, alone.input / name)
        assert alone.run().copied == 0
        ours, theirs = by_name(place)[name], by_name(alone)[name]
        elsewhere = ("id", "original_file", "path", "imported_at", "inode")
        assert without(ours, *elsewhere) == without(theirs, *elsewhere)
        assert Path(ours["path"]).read_bytes() == Path(theirs["path"]).read_bytes()


def test_a_copy_in_a_later_run_needs_no_clap(place: Workplace) -> None:
    place.run()
    copy(place.input / "kick.wav", place.input / "Snares" / "sn.wav")
    summary = run_without_clap(place)
    assert (summary.inserted, summary.copied, summary.already_done) == (1, 1, 2)
    assert by_name(place)["Snares/sn.wav"]["category"] == "snare"
    assert run_without_clap(place).already_done == 3


def test_each_copy_has_a_wav_of_its_own_that_outlives_the_others(place: Workplace) -> None:
    copy(place.input / "kick.wav", place.input / "kick 2.wav")
    place.run()
    first, second = by_name(place)["kick.wav"], by_name(place)["kick 2.wav"]
    assert first["path"] != second["path"]
    content = Path(first["path"]).read_bytes()
    write_tone(place.input / "kick 2.wav", 99)  # the first in the walk: the other was made of it
    place.run()
    assert Path(first["path"]).read_bytes() == content
    assert not Path(second["path"]).exists()


def test_a_wav_is_copied_where_there_are_no_links(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(place.input / "kick.wav", place.input / "kick 2.wav")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    place.run()
    wavs = [Path(row["path"]) for name, row in by_name(place).items() if name.startswith("kick")]
    assert wavs[0].read_bytes() == wavs[1].read_bytes()
    assert wavs[0].stat().st_ino != wavs[1].stat().st_ino


def test_without_wavs_a_copy_has_none(place: Workplace) -> None:
    copy(place.input / "kick.wav", place.input / "kick 2.wav")
    assert place.run(stems=None).copied == 1
    assert [row["path"] for row in place.rows()] == [None] * 3


def test_where_the_wav_is_gone_a_copy_is_decoded(place: Workplace) -> None:
    place.run()
    Path(by_name(place)["kick.wav"]["path"]).unlink()
    copy(place.input / "kick.wav", place.input / "kick 2.wav")
    assert place.run().copied == 0
    assert Path(by_name(place)["kick 2.wav"]["path"]).exists()


def test_rows_of_earlier_versions_do_not_serve_but_the_next_copies_are_made_of_the_first(place: Workplace) -> None:
    place.run()
    place.change("UPDATE stems SET features = json_remove(features, '$.tempo_candidates')")
    copy(place.input / "kick.wav", place.input / "kick 2.wav")
    copy(place.input / "kick.wav", place.input / "kick 3.wav")
    model = FakeClap()
    assert place.run(model).copied == 1
    assert model.call_sizes == [1]


def test_files_of_one_size_and_other_bytes_are_no_copies(place: Workplace) -> None:
    for hz in (200, 300, 400):
        write_tone(place.input / f"{hz}.wav", hz)
    assert len({path.stat().st_size for path in place.input.glob("?00.wav")}) == 1
    summary = place.run()
    assert (summary.inserted, summary.copied) == (5, 0)


def test_copies_of_a_broken_file_are_all_quarantined(place: Workplace) -> None:
    for number in range(7):
        (place.input / f"broken {number}.wav").write_bytes(b"no audio at all")
    summary = place.run()
    assert (summary.inserted, summary.quarantined, summary.left) == (2, 7, 0)
    assert len(list(place.quarantine.glob("ERROR_*.wav"))) == 7


def test_copies_of_a_file_with_a_bad_vector_are_all_quarantined(place: Workplace) -> None:
    size = soundfile.info(place.input / "kick.wav").frames
    for number in range(3):
        copy(place.input / "kick.wav", place.input / f"kick {number}.wav")
    summary = place.run(BrokenClap(lambda _call, _row, window: len(window) == size))
    assert (summary.inserted, summary.quarantined) == (1, 4)
    assert len(list(place.quarantine.glob("ERROR_BadVector_*.wav"))) == 4


def test_where_the_first_copy_cannot_be_read_the_next_is_decoded(place: Workplace) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        copy(place.input / "kick.wav", place.input / name)
    (place.input / "kick.wav").unlink()
    result = place.execute(faults={"errno": {"a.wav": 5}})
    assert result.returncode == 1, result.stderr
    assert sorted(name for name in by_name(place) if "/" not in name) == ["b.wav", "c.wav"]
    assert "3 inserted (1 copied), 0 quarantined, 1 failed" in result.stderr


def test_copies_over_several_batches_and_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_name(monkeypatch, "TRIAL_FILES", 3)
    replace_name(monkeypatch, "FILES_PER_PART", 4)
    place = Workplace(tmp_path)
    place.input.mkdir()
    for number in range(24):
        write_tone(place.input / f"{number:02d}.wav", 100 + 50 * (number % 5))
    model = FakeClap()
    summary = place.run(model, batch_windows=2)
    assert (summary.inserted, summary.copied) == (24, 19)
    assert sum(model.call_sizes) == 5
    rows = by_name(place)
    assert len(rows) == 24
    for number in range(5, 24):
        assert rows[f"{number:02d}.wav"]["clap_embedding"] == rows[f"{number % 5:02d}.wav"]["clap_embedding"]


def test_limit_counts_copies_too(place: Workplace) -> None:
    for number in range(3):
        copy(place.input / "kick.wav", place.input / f"kick {number}.wav")
    assert place.run(limit=2).inserted == 2
    assert place.run().inserted == 3
    assert len({row["clap_embedding"] for row in place.rows()}) == 2


def test_a_copy_that_no_name_describes_asks_clap(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Weights, "is_published", True)
    prompts = {"kick": ["60 Hz"], "bass": ["900 Hz"]}
    place.run(category_prompts=prompts)
    copy(place.input / "kick.wav", place.input / "0001.wav")
    assert place.run(category_prompts=prompts).copied == 1
    row = by_name(place)["0001.wav"]
    features = json.loads(row["features"])
    assert (row["category"], features["category_source"]) == ("kick", "clap")
    assert features["category_cosine"] == pytest.approx(1, abs=1e-3)
    copy(place.input / "0001.wav", place.input / "0002.wav")
    run_without_clap(place, category_prompts=prompts)
    assert by_name(place)["0002.wav"]["features"] == row["features"]


# ------------------------------------------------------------------------------------------------------ moved, renamed


def test_a_moved_file_takes_its_row_over(place: Workplace) -> None:
    place.run()
    rate(place, "kick.wav", 5)
    before = by_name(place)["kick.wav"]
    (place.input / "Snares").mkdir()
    (place.input / "kick.wav").rename(place.input / "Snares" / "sn 1.wav")
    summary = run_without_clap(place)
    assert (summary.inserted, summary.moved, summary.copied, summary.vanished) == (1, 1, 0, 1)
    rows = by_name(place)
    assert set(rows) == {"Snares/sn 1.wav", "Loops/Bass Loop 120bpm Am.wav"}
    after = rows["Snares/sn 1.wav"]
    assert (after["id"], after["user_rating"], after["category"]) == (before["id"], 5, "snare")
    for column in ("path", *NAME_INDEPENDENT):
        assert after[column] == before[column]
    assert Path(after["path"]).exists()
    again = run_without_clap(place)
    assert (again.already_done, again.vanished) == (2, 0)


def test_of_two_places_that_a_file_was_moved_to_the_first_takes_the_row(place: Workplace) -> None:
    place.run()
    rate(place, "kick.wav", 4)
    stem_id = by_name(place)["kick.wav"]["id"]
    copy(place.input / "kick.wav", place.input / "kick b.wav")
    (place.input / "kick.wav").rename(place.input / "kick a.wav")
    summary = run_without_clap(place)
    assert (summary.moved, summary.copied) == (1, 1)
    rows = by_name(place)
    assert (rows["kick a.wav"]["id"], rows["kick a.wav"]["user_rating"]) == (stem_id, 4)
    assert rows["kick b.wav"]["id"] != stem_id
    assert rows["kick b.wav"]["user_rating"] is None


def test_two_copies_that_were_moved_take_over_a_row_each(place: Workplace) -> None:
    copy(place.input / "kick.wav", place.input / "kick 2.wav")
    place.run()
    ids = {row["id"] for row in place.rows()}
    for name in ("kick.wav", "kick 2.wav"):
        (place.input / name).rename(place.input / f"moved {name}")
    assert run_without_clap(place).moved == 2
    assert {row["id"] for row in place.rows()} == ids


def test_a_file_put_where_a_moved_one_was_gets_an_id_of_its_own(place: Workplace) -> None:
    place.run()
    before = by_name(place)["kick.wav"]
    (place.input / "kick.wav").rename(place.input / "kick moved.wav")
    run_without_clap(place)
    copy(place.input / "kick moved.wav", place.input / "kick.wav")
    assert run_without_clap(place).copied == 1
    rows = by_name(place)
    assert rows["kick moved.wav"]["id"] == before["id"] != rows["kick.wav"]["id"]
    assert rows["kick moved.wav"]["path"] != rows["kick.wav"]["path"]
    (place.input / "kick.wav").unlink()
    place.change("UPDATE stems SET features = json_remove(features, '$.tempo_candidates')")  # is decoded now
    place.change(f"DELETE FROM stems WHERE id = '{rows['kick.wav']['id']}'")
    copy(place.input / "kick moved.wav", place.input / "kick.wav")
    assert place.run().inserted == 1
    rows = by_name(place)
    assert rows["kick moved.wav"]["id"] == before["id"] != rows["kick.wav"]["id"]
    assert rows["kick moved.wav"]["path"] != rows["kick.wav"]["path"]


def test_a_row_from_outside_the_input_is_taken_over_only_if_its_file_is_gone(place: Workplace) -> None:
    place.run()
    other = dataclasses.replace(place.config(), input=place.folder / "other")
    copy(place.input / "kick.wav", place.folder / "other" / "a.wav")

    def run() -> Summary:
        return product.DatasetPreparer(other, load_model=lambda *_: FakeClap(), show_progress=False).run()

    summary = run()
    assert (summary.copied, summary.moved, summary.vanished) == (1, 0, 0)
    (place.input / "Loops" / "Bass Loop 120bpm Am.wav").rename(place.folder / "other" / "b.wav")
    summary = run()
    assert (summary.copied, summary.moved) == (0, 1)


def test_a_drive_that_hangs_is_asked_once_a_folder_and_keeps_its_rows(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_tone(place.input / f"kick {number}.wav", 70 + number)
    place.run()
    asked: list[str] = []
    lstat, root = os.lstat, os.path.realpath(place.input)

    def hang(path: Any, **options: Any) -> Any:
        if str(path).startswith(root):
            asked.append(str(path))
            time.sleep(1)
        return lstat(path, **options)

    other = dataclasses.replace(place.config(), input=place.folder / "other")
    for number in range(3):
        copy(place.input / f"kick {number}.wav", place.folder / "other" / f"kick {number}.wav")
        (place.input / f"kick {number}.wav").unlink()
    monkeypatch.setattr("os.lstat", hang)
    replace_name(monkeypatch, "STAT_S", 0.1)
    summary = product.DatasetPreparer(other, load_model=lambda *_: FakeClap(), show_progress=False).run()
    assert (summary.copied, summary.moved) == (3, 0)
    assert asked[0] == root  # whether the library was moved as a whole
    assert len(asked) == 2
    assert len(place.rows()) == 8


def test_a_moved_file_whose_row_is_of_an_earlier_version_keeps_id_and_vector(place: Workplace) -> None:
    place.run()
    rate(place, "kick.wav", 3)
    place.change("UPDATE stems SET features = json_remove(features, '$.tempo_candidates')")
    before = by_name(place)["kick.wav"]
    (place.input / "kick.wav").rename(place.input / "snare.wav")
    model = FakeClap()
    summary = place.run(model)
    assert (summary.moved, summary.vectors_kept, summary.inserted) == (1, 0, 1)
    assert model.call_sizes == []
    after = by_name(place)["snare.wav"]
    assert [after[column] for column in ("id", "user_rating", "clap_embedding")] == [
        before[column] for column in ("id", "user_rating", "clap_embedding")
    ]
    assert after["category"] == "snare"
    assert Path(after["path"]).exists()


def test_killed_between_taking_a_row_over_and_judging_it_the_next_run_judges_it(place: Workplace) -> None:
    place.run()
    stem_id = by_name(place)["kick.wav"]["id"]
    (place.input / "kick.wav").rename(place.input / "snare.wav")
    result = place.execute(faults={"kill_after": {"Database.take_over": 1}})
    assert result.returncode == -9
    assert by_name(place)["snare.wav"]["category"] == "kick"
    run_without_clap(place)
    row = by_name(place)["snare.wav"]
    assert (row["id"], row["category"]) == (stem_id, "snare")


# ------------------------------------------------------------------------------------------------------------ vanished


def test_rows_whose_files_are_gone_are_counted_and_kept(place: Workplace) -> None:
    place.run()
    before = place.rows()
    shutil.rmtree(place.input / "Loops")
    summary = run_without_clap(place)
    assert (summary.vanished, summary.already_done) == (1, 1)
    assert "the files of 1 rows are gone" in str(summary)
    (place.input / "kick.wav").unlink()
    assert run_without_clap(place).vanished == 2
    assert place.rows() == before


def test_rows_outside_the_input_have_not_vanished(place: Workplace) -> None:
    place.run()
    other = dataclasses.replace(place.config(), input=place.input / "Loops")
    assert product.DatasetPreparer(other, show_progress=False).run().vanished == 0


def test_rows_in_a_folder_that_cannot_be_listed_have_not_vanished(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run()
    scandir = os.scandir

    def refuse(folder: Any) -> Any:
        if str(folder).endswith("Loops"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr("os.scandir", refuse)
    summary = run_without_clap(place)
    assert (summary.vanished, summary.failed) == (0, 1)


# ------------------------------------------------------------------------------------------------- kept by its samples


def add_chunk(path: Path, name: bytes = b"LIST", content: bytes = b"INFOINAM\x04\0\0\0kick") -> None:
    """Append a chunk to a WAV, as a tagger does."""
    data = path.read_bytes() + struct.pack("<4sI", name, len(content)) + content
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])


def test_a_file_that_was_tagged_anew_keeps_its_vector(place: Workplace) -> None:
    place.run()
    rate(place, "kick.wav", 2)
    before = by_name(place)["kick.wav"]
    add_chunk(place.input / "kick.wav")
    model = FakeClap()
    summary = place.run(model)
    assert (summary.inserted, summary.vectors_kept) == (1, 1)
    assert model.call_sizes == []
    after = by_name(place)["kick.wav"]
    assert after["sha256"] != before["sha256"]
    assert after["size_bytes"] == (place.input / "kick.wav").stat().st_size
    for column in ("id", "user_rating", "samples_sha256", "clap_embedding"):
        assert after[column] == before[column]
    assert Path(after["path"]).exists()
    assert place.run().already_done == 2


def test_a_file_whose_samples_changed_gets_another_vector(place: Workplace) -> None:
    place.run()
    before = by_name(place)["kick.wav"]
    write_tone(place.input / "kick.wav", 61)
    model = FakeClap()
    assert place.run(model).vectors_kept == 0
    assert model.call_sizes == [1]
    assert by_name(place)["kick.wav"]["clap_embedding"] != before["clap_embedding"]


def test_a_file_that_was_only_touched_is_not_decoded(place: Workplace) -> None:
    place.run()
    before = by_name(place)["kick.wav"]
    os.utime(place.input / "kick.wav", ns=(1, 1))
    assert run_without_clap(place).vectors_kept == 1
    after = by_name(place)["kick.wav"]
    assert after["mtime_ns"] == 1
    assert without(after, "mtime_ns", "imported_at") == without(before, "mtime_ns", "imported_at")
    assert Path(after["path"]).exists()


# -- the plan: what becomes of each file, decided before any is decoded -----------------------------------------------

A, B = "a" * 64, "b" * 64


def known(stem_id: str, path: str, *, gone: bool = False, serves: bool = True) -> KnownRow:
    return KnownRow(stem_id, path, gone, serves)


@pytest.mark.parametrize(
    ("files", "rows", "with_rows", "broken", "expected"),
    [
        # No row has the bytes: the first is decoded, and the others wait for its row.
        ({"/1": A, "/2": A, "/3": B}, {}, "", "", ["decode", "wait", "decode"]),
        # A file that may not be a duplicate has no hash.
        ({"/1": None, "/2": None}, {}, "", "", ["decode", "decode"]),
        # Its own row: a file whose time changed, but not its bytes.
        ({"/1": A}, {A: [known("x", "/1")]}, "/1", "", ["keep x"]),
        # Its own row is of an earlier version, or its WAV is lost.
        ({"/1": A, "/2": A}, {A: [known("x", "/1", serves=False)]}, "/1", "", ["decode", "wait"]),
        # Another file's row, and that file is there.
        ({"/2": A}, {A: [known("x", "/1")]}, "", "", ["copy x"]),
        # ... the newest that can serve.
        ({"/3": A}, {A: [known("x", "/1"), known("y", "/2", serves=False)]}, "", "", ["copy x"]),
        ({"/3": A}, {A: [known("x", "/1"), known("y", "/2")]}, "", "", ["copy y"]),
        ({"/2": A, "/3": A}, {A: [known("x", "/1", serves=False)]}, "", "", ["decode", "wait"]),
        # Another file's row, and that file is gone: the oldest of them moves, each once.
        ({"/2": A}, {A: [known("x", "/1", gone=True)]}, "", "", ["move x"]),
        (
            {"/3": A, "/4": A, "/5": A},
            {A: [known("x", "/1", gone=True), known("y", "/2", gone=True)]},
            "",
            "",
            ["move x", "move y", "copy y"],
        ),
        ({"/3": A, "/4": A}, {A: [known("x", "/1", gone=True), known("y", "/2")]}, "", "", ["move x", "copy y"]),
        ({"/2": A, "/3": A}, {A: [known("x", "/1", gone=True, serves=False)]}, "", "", ["move and decode x", "wait"]),
        # A file that has a row keeps its id: no row moves to it.
        ({"/2": A}, {A: [known("x", "/1", gone=True)]}, "/2", "", ["copy x"]),
        # Files whose bytes were quarantined do not wait for each other.
        ({"/1": A, "/2": A}, {}, "", A, ["decode", "decode"]),
    ],
)
def test_the_plan(
    files: dict[str, str | None], rows: dict[str, list[KnownRow]], with_rows: str, broken: str, expected: list[str]
) -> None:
    found = [FoundFile(path, 1, 1) for path in files]
    digests = {path: digest for path, digest in files.items() if digest is not None}
    decisions = plan(found, digests, rows, set(with_rows.split()), set(broken.split()))
    assert [decision.found for decision in decisions] == found
    assert [f"{decision.action} {decision.row_id}".strip() for decision in decisions] == expected
