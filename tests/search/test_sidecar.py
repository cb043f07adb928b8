"""The sidecar: made when it is missing or stale, and left alone otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest

from libraries import SearchedLibrary, add_all, direction
from records import plan_of
from search_dataset_sql import main
from stem_dataset.database.stems import Database
from stem_dataset.discover import WalkRules, discover
from stem_dataset.search.sidecar import STEMS_PER_PAGE, shown_query
from stem_dataset.summary import Summary


def files_of(library: SearchedLibrary) -> set[str]:
    """Return the files of the sidecar that come and go."""
    return {path.name for path in library.sidecar.glob("*-*.*")}


def test_a_second_search_uses_the_sidecar_of_the_first(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav", "b.wav"])
    searched.run()
    made = files_of(searched)
    assert len(made) == 2
    searched.run("--like", "/music/a.wav")
    assert files_of(searched) == made


def test_a_search_leaves_the_database_as_it_is(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav"])
    before = searched.database.read_bytes()
    searched.run("--like", "/music/a.wav")
    assert searched.database.read_bytes() == before
    assert {path.name for path in searched.folder.iterdir()} == {"stems.db", "stems.db.search"}


def test_each_change_is_found(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav", "b.wav"])
    assert searched.names() == ["a.wav", "b.wav"]
    searched.add("/music/c.wav")
    assert searched.names() == ["a.wav", "b.wav", "c.wav"]
    searched.change("UPDATE stems SET user_rating = 5 WHERE original_file = '/music/b.wav'")
    assert searched.names("--rating", "5") == ["b.wav"]
    searched.change("DELETE FROM stems WHERE original_file = '/music/a.wav'")
    assert searched.names() == ["b.wav", "c.wav"]
    blob = direction(x=1).tobytes()
    searched.change("UPDATE stems SET clap_embedding = ? WHERE original_file = '/music/c.wav'", blob)
    assert searched.json("--like", "/music/b.wav")[1]["cosine"] == pytest.approx(512**-0.5, abs=1e-6)


def test_a_change_in_the_wal_is_found_while_a_run_holds_the_database(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav", "b.wav"])
    with contextlib.closing(sqlite3.connect(searched.database)) as writer:
        # The same size of all files: only the WAL's time tells.
        for rating in range(1, 5):
            with writer:
                writer.execute("UPDATE stems SET user_rating = ?", (rating,))
            assert [hit["user_rating"] for hit in searched.json()] == [rating] * 2
        writer.execute("BEGIN IMMEDIATE")
        assert searched.names() == ["a.wav", "b.wav"]


def test_a_database_that_was_replaced_by_an_older_copy_is_found(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav"])
    status = searched.database.stat()
    former = searched.database.read_bytes()
    searched.change("UPDATE stems SET category = 'pads'")
    assert searched.json()[0]["category"] == "pads"
    searched.database.write_bytes(former)
    os.utime(searched.database, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert searched.json()[0]["category"] == "kick"


def test_a_page_of_the_copy_does_not_read_the_whole_table(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav"])
    with contextlib.closing(Database(searched.database)) as database:
        for count in (1, STEMS_PER_PAGE):
            assert "SCAN stems" not in plan_of(database, shown_query(count), ["x"] * count)


@pytest.mark.parametrize("damage", ["{", "[]", '{"recipe": 0}', ""])
def test_a_damaged_card_makes_the_sidecar_new(searched: SearchedLibrary, damage: str) -> None:
    add_all(searched, ["a.wav"])
    searched.run()
    (searched.sidecar / "card.json").write_text(damage)
    assert searched.names() == ["a.wav"]
    assert json.loads((searched.sidecar / "card.json").read_text())["recipe"] > 0
    assert len(files_of(searched)) == 2


def test_a_missing_file_makes_the_sidecar_new(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav"])
    searched.run()
    next(searched.sidecar.glob("*.npy")).unlink()
    assert searched.names("--like", "/music/a.wav") == ["a.wav"]


def test_the_walk_does_not_enter_the_sidecar(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav"])
    searched.run()
    (searched.sidecar / "copy.wav").write_bytes(b"RIFF")
    assert list(discover(WalkRules(os.path.realpath(searched.folder)), Summary("run"))) == []
    assert "search_dataset_sql.py" in (searched.sidecar / "README.txt").read_text()


def test_where_no_folder_can_be_made_a_search_works_all_the_same(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav"])
    searched.sidecar.write_text("a file of this name")
    assert searched.names() == ["a.wav"]
    assert "cannot be written" in searched.messages


def test_an_empty_database_has_nothing_to_find(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav"])
    searched.change("DELETE FROM stems")
    assert searched.names() == []
    assert searched.run("kick") == ""
    assert searched.run("--near-duplicates") == ""
    assert "0 pairs" in searched.messages


def test_without_a_database_a_search_is_a_usage_error_and_makes_none(searched: SearchedLibrary) -> None:
    searched.run("kick", exit_code=2)
    assert "there is no database at" in searched.messages
    assert list(searched.folder.iterdir()) == []


def test_a_database_of_an_older_schema_is_a_usage_error(searched: SearchedLibrary) -> None:
    add_all(searched, ["a.wav"])
    searched.change("PRAGMA user_version = 2")
    searched.run("a", exit_code=2)
    assert "run prepare_dataset_sql.py on it once" in searched.messages


def test_another_programs_database_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "photos.db")) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    assert main(["--database", str(tmp_path / "photos.db")]) == 2
    assert "another program" in capsys.readouterr().err
