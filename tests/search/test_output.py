"""What the command prints and writes: table, JSON, CSV, M3U, paths, copies, pairs."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from audio_files import write_text
from libraries import SearchedLibrary, direction, is_loop
from stem_dataset.search import near_duplicates
from stem_dataset.search.output import bar_of, cells, cut_end, cut_start
from workplace import REPOSITORY

HOSTILE = "ki\x1b[31mck\n\udcff<script>.wav"


@pytest.fixture
def found(searched: SearchedLibrary) -> SearchedLibrary:
    """A stem of which everything is known, and one of which nothing is."""
    known = {"bpm": 124.0, "key": "Am", "category": "drum_loop", "tags": '["dark", "soft"]', "features": is_loop(True)}
    searched.add("/music/Loops/Sunny House/loop.wav", direction(x=1), duration_s=7.741, **known)
    searched.add(f"/music/{HOSTILE}", direction(x=1, y=1), duration_s=0.05, category="unknown")
    return searched


def test_the_table_has_a_line_of_80_cells_for_each_stem(found: SearchedLibrary) -> None:
    head, first, second = found.run("--like", "/music/Loops/Sunny House/loop.wav").splitlines()
    assert head.split() == ["cosine", "name", "folder", "category", "bpm", "key", "seconds"]
    assert first.split() == ["1", "█" * 8, "loop.wav", "…ps/Sunny", "House", "drum_loop", "124.0", "Am", "7.74"]
    # What is not known is empty, and the name can neither break the line nor control the terminal.
    assert second.split() == ["2", "█████▋", r"ki\x1b[31mck\n\udcff<…", "/music", "0.05"]
    assert [cells(line) for line in (head, first, second)] == [80, 80, 80]
    assert "%" not in head + first + second


def test_without_a_query_the_bar_is_empty(found: SearchedLibrary) -> None:
    lines = found.run("--loops").splitlines()
    assert lines[1].split()[:2] == ["1", "loop.wav"]


@pytest.mark.parametrize(
    ("cosine", "bar"), [(None, ""), (-0.5, ""), (0.0, ""), (1.0, "█" * 8), (1.1, "█" * 8), (0.5, "████"), (1 / 64, "▏")]
)
def test_a_bar_is_full_at_1_and_empty_at_0(cosine: float | None, bar: str) -> None:
    assert bar_of(cosine) == bar


def test_wide_characters_take_two_cells() -> None:
    assert cells("太鼓") == 4
    assert cells("u\u0308") == 1
    assert cut_end("太鼓の音", 6) == "太鼓…"
    assert cut_start("太鼓の音", 5) == "…の音"
    assert cut_end("kick", 4) == "kick"


def test_json_has_every_column_and_null_for_what_is_missing(found: SearchedLibrary) -> None:
    known, hostile = found.json("--like", "/music/Loops/Sunny House/loop.wav")
    assert known | {"id": ""} == {
        "rank": 1,
        "cosine": 1.0,
        "id": "",
        "original_file": "/music/Loops/Sunny House/loop.wav",
        "wav": None,
        "file_name": "loop.wav",
        "folder": "/music/Loops/Sunny House",
        "category": "drum_loop",
        "bpm": 124.0,
        "key": "Am",
        "seconds": 7.741,
        "is_loop": True,
        "tags": ["dark", "soft"],
        "user_rating": None,
        "quality_ok": True,
    }
    assert (hostile["bpm"], hostile["key"], hostile["is_loop"], hostile["tags"]) == (None, None, None, [])
    assert hostile["category"] is None
    assert hostile["file_name"] == "ki\x1b[31mck\n\\xff<script>.wav"


def test_json_of_nothing_is_an_empty_array(found: SearchedLibrary) -> None:
    assert json.loads(found.run("--json", "--rating", "5")) == []


def test_csv_has_a_row_for_each_stem(found: SearchedLibrary, tmp_path: Path) -> None:
    found.run("--csv", str(tmp_path / "found.csv"))
    with open(tmp_path / "found.csv", encoding="utf-8", newline="") as file:
        hostile, known = sorted(csv.DictReader(file), key=lambda row: row["file_name"])
    assert (known["bpm"], known["tags"], known["is_loop"], known["cosine"]) == ("124.0", "dark; soft", "1", "")
    assert (hostile["bpm"], hostile["category"], hostile["is_loop"], hostile["quality_ok"]) == ("", "", "", "1")


def test_paths_are_the_bytes_of_the_file_system(found: SearchedLibrary) -> None:
    command = [sys.executable, str(REPOSITORY / "search_dataset_sql.py"), "--database", str(found.database)]
    done = subprocess.run([*command, "--paths", "-0"], capture_output=True, timeout=60, check=True)
    assert done.stdout.split(b"\0") == [b"/music/Loops/Sunny House/loop.wav", os.fsencode(f"/music/{HOSTILE}"), b""]
    done = subprocess.run([*command, "--paths", "--loops"], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"/music/Loops/Sunny House/loop.wav\n"


def test_m3u_leaves_out_a_name_that_it_cannot_have(found: SearchedLibrary, tmp_path: Path) -> None:
    found.run("--m3u", str(tmp_path / "found.m3u"))
    assert (tmp_path / "found.m3u").read_text().splitlines() == [
        "#EXTM3U",
        "#EXTINF:8,loop.wav",
        "/music/Loops/Sunny House/loop.wav",
    ]
    assert "left out of the playlist" in found.messages


def test_copies_get_names_of_their_own_and_a_list_of_where_they_came_from(
    searched: SearchedLibrary, tmp_path: Path
) -> None:
    originals = [tmp_path / folder / "kick.wav" for folder in ("a", "b", "c")]
    for original in originals[:2]:
        original.parent.mkdir()
        write_text(original, text=str(original))
    for original in originals:
        searched.add(str(original))
    target = tmp_path / "picked"
    target.mkdir()
    write_text(target / "kick.wav", "was here")
    # One original is gone.
    searched.run("--copy-to", str(target), exit_code=1)
    assert f"{originals[2]}: not copied" in searched.messages
    contents = {path.name: path.read_text() for path in target.glob("*.wav")}
    assert contents == {"kick.wav": "was here", "kick~2.wav": str(originals[0]), "kick~3.wav": str(originals[1])}
    with open(target / "copied_from.csv", encoding="utf-8", newline="") as file:
        listed = {row["copy"]: row["original_file"] for row in csv.DictReader(file)}
    assert listed == {"kick~2.wav": str(originals[0]), "kick~3.wav": str(originals[1])}
    assert all(original.exists() for original in originals[:2])


def test_an_interrupted_copy_lists_what_it_has_copied(
    searched: SearchedLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.wav", "b.wav"):
        searched.add(str(write_text(tmp_path / name)))

    def press_ctrl_c(source: IO[bytes], target: IO[bytes], length: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        target.write(source.read())

    monkeypatch.setattr("shutil.copyfileobj", press_ctrl_c)
    searched.run("--copy-to", str(tmp_path / "picked"), exit_code=130)
    assert sorted(path.name for path in (tmp_path / "picked").iterdir()) == ["a.wav", "copied_from.csv"]


def test_a_folder_that_cannot_be_made_stops_with_4(found: SearchedLibrary, tmp_path: Path) -> None:
    write_text(tmp_path / "file")
    found.run("--copy-to", str(tmp_path / "file" / "folder"), exit_code=4)
    found.run("--csv", "", exit_code=2)


@pytest.mark.parametrize(
    ("place", "exit_code", "reason"),
    [
        ("file/found", 2, "cannot be written: there is no folder {}/file"),
        ("none/found", 2, "cannot be written: there is no folder {}/none"),
        ("", 4, "cannot be written"),
    ],
)
@pytest.mark.parametrize("flag", ["--csv", "--m3u"])
def test_a_file_that_cannot_be_written_is_named_with_its_flag(
    found: SearchedLibrary, tmp_path: Path, flag: str, place: str, exit_code: int, reason: str
) -> None:
    write_text(tmp_path / "file")
    path = tmp_path / place
    found.run(flag, str(path), exit_code=exit_code)
    said = found.messages
    assert f"{flag} {path}: {reason.format(tmp_path)}" in said
    assert ".unfinished" not in said


# -- near duplicates --------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(searched: SearchedLibrary) -> SearchedLibrary:
    """Two copies, one that is nearly the same, and one that is not."""
    searched.add("/music/a.wav", direction(x=1), duration_s=1.0)
    searched.add("/music/other.wav", direction(y=1), sha256="1" * 64)
    searched.add("/music/b.wav", direction(x=1), duration_s=1.0)
    searched.add("/music/near.wav", direction(x=10, y=1), duration_s=1.25, sha256="2" * 64)
    return searched


def test_near_duplicates_are_listed_with_their_lengths_and_none_is_deleted(pairs: SearchedLibrary) -> None:
    lines = pairs.run("--near-duplicates").splitlines()
    assert lines[:2] == ["1.0000    1.00 s /music/a.wav", " same     1.00 s /music/b.wav"]
    assert lines[2:4] == ["0.9950    1.00 s /music/a.wav", "          1.25 s /music/near.wav"]
    assert len(lines) == 6
    assert "3 pairs with a cosine of at least 0.98; listen before you delete any" in pairs.messages
    assert len(pairs.names()) == 4


def test_near_duplicates_above_another_cosine(pairs: SearchedLibrary) -> None:
    (pair,) = pairs.json("--near-duplicates", "0.999")
    assert pair["same_bytes"]
    assert [stem["file_name"] for stem in pair["stems"]] == ["a.wav", "b.wav"]
    assert len(pairs.json("--near-duplicates", "0.05", "--top", "0")) == 4


def test_the_filters_hold_for_pairs_too(pairs: SearchedLibrary) -> None:
    assert len(pairs.json("--near-duplicates", "--seconds", "1.1-2")) == 0


def test_pairs_are_written_to_files(pairs: SearchedLibrary, tmp_path: Path) -> None:
    pairs.run("--near-duplicates", "--top", "2", "--csv", str(tmp_path / "pairs.csv"), "--m3u", str(tmp_path / "p.m3u"))
    with open(tmp_path / "pairs.csv", encoding="utf-8", newline="") as file:
        rows = [(row["pair"], row["file_name"]) for row in csv.DictReader(file)]
    assert rows == [("1", "a.wav"), ("1", "b.wav"), ("2", "a.wav"), ("2", "near.wav")]
    assert (tmp_path / "p.m3u").read_text().count("#EXTINF") == 3
    assert "the nearest 2 shown" in pairs.messages


def test_blocks_find_the_pairs_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "BLOCK_ROWS", 7)
    vectors = np.random.default_rng(3).standard_normal((40, 512)).astype(np.float32)
    vectors[:, :500] = 0
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = np.arange(0, 40, 2)
    products = vectors[kept] @ vectors[kept].T
    expected = {(int(kept[i]), int(kept[j])) for i, j in np.argwhere(np.triu(products >= 0.3, 1))}
    found, total = near_duplicates.near_pairs(vectors, kept, 0.3, 100, lambda rows: None)
    assert {(first, second) for _, first, second in found} == expected
    assert total == len(expected) > 5
    fewer, total = near_duplicates.near_pairs(vectors, kept, 0.3, 2, lambda rows: None)
    assert (fewer, total) == (found[:2], len(expected))
