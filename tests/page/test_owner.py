"""Ratings and corrections of the page."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

import pytest

from libraries import SearchedLibrary
from page_client import PageClient
from patching import replace_name


def ids_of(page: PageClient) -> dict[str, str]:
    """Return the ids by file name."""
    return {row["name"]: row["id"] for row in page.rows()}


def stored(library: SearchedLibrary, query: str) -> list[Any]:
    """Return the rows that a query of the database has."""
    with contextlib.closing(sqlite3.connect(library.database)) as connection:
        return connection.execute(query).fetchall()


def test_a_rating_is_stored_shown_searched_and_sorted_at_once(searched: SearchedLibrary, page: PageClient) -> None:
    ids = ids_of(page)
    assert page.search(sort="rating")
    name = page.desk.opened.state.name
    row = page.send("PUT", f"/api/stem/{ids['odd.wv']}/rating", {"rating": 4})
    assert (row["rating"], row["id"]) == (4, ids["odd.wv"])
    assert stored(searched, "SELECT user_rating FROM stems WHERE user_rating IS NOT NULL") == [(4,)]
    assert page.names(rating=4) == ["odd.wv"]
    assert page.names(sort="rating")[0] == "odd.wv"
    assert page.send("PUT", f"/api/stem/{ids['odd.wv']}/rating", {"rating": None})["rating"] is None
    assert page.names(rating=0) == []
    # The library was not copied again, so what was found before can still be scrolled; and it is not stale.
    assert page.search()["notes"] == []
    assert page.desk.opened.state.name == name


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("bpm", 87.5, 87.5),
        ("bpm", "87.5", 87.5),
        ("key", "b flat minor", None),
        ("key", "Bbm", "A#m"),
        ("category", "snare", "snare"),
        ("tags", ["dark", "wide"], ["dark", "wide"]),
        ("bpm", "none", None),
        ("key", "none", None),
    ],
)
def test_a_correction_is_stored_and_shown_and_can_be_removed(
    searched: SearchedLibrary, page: PageClient, column: str, value: object, shown: object
) -> None:
    stem_id = ids_of(page)["beat.wav"]
    address, before = f"/api/stem/{stem_id}/correction", page.get(f"/api/stem/{stem_id}")[column]
    if value == "b flat minor":
        assert "give a key" in page.refused(address, {"column": column, "value": value}, "PUT")
        return
    row = page.send("PUT", address, {"column": column, "value": value})
    assert (row[column], row["corrected"]) == (shown, [column])
    assert stored(searched, "SELECT stem_id, column_name FROM corrections") == [(stem_id, column)]
    row = page.send("PUT", address, {"column": column, "value": None})
    assert (row[column], row["corrected"]) == (before, [])
    assert stored(searched, "SELECT * FROM corrections") == []


def test_a_corrected_category_is_found_counted_and_on_the_map(page: PageClient) -> None:
    stem_id = ids_of(page)["odd.wv"]
    page.send("PUT", f"/api/stem/{stem_id}/correction", {"column": "category", "value": "zither"})
    assert page.names(categories=["zither"]) == ["odd.wv"]
    assert page.names(needs_listening=True) == ["odd.wv"]  # whether it is a loop is still not known
    assert {"name": "zither", "rows": 1} in page.get("/api/library")["categories"]
    assert page.search()["histograms"]["category"]["counts"] == [1, 1, 1, 1]
    assert list(page.http.get("/api/map/categories").content) == [2, 1, 0, 3]


@pytest.mark.parametrize("rating", [6, -1, 2.5, True, "5", [], {}])
def test_what_is_no_rating_is_refused(searched: SearchedLibrary, page: PageClient, rating: object) -> None:
    stem_id = ids_of(page)["kick.wav"]
    error = page.refused(f"/api/stem/{stem_id}/rating", {"rating": rating}, "PUT")
    assert error.endswith("give a rating from 0 to 5")
    assert stored(searched, "SELECT count(*) FROM stems WHERE user_rating IS NOT NULL") == [(0,)]


@pytest.mark.parametrize(
    "sent",
    [
        {"column": "bpm", "value": -1},
        {"column": "bpm", "value": "fast"},
        {"column": "bpm", "value": True},
        {"column": "bpm", "value": 10**400},
        {"column": "category", "value": ""},
        {"column": "category", "value": "two\nlines"},
        {"column": "tags", "value": "dark"},
        {"column": "tags", "value": [1]},
        {"column": "original_file", "value": "/etc/passwd"},
        {"column": "id; DROP TABLE stems", "value": 1},
        {"column": 1, "value": 1},
        {"column": ["bpm"], "value": 1},
        {"column": "bpm"},
        {"value": 1},
        {"column": "bpm", "value": 1, "id": "x"},
        [],
        "x",
    ],
)
def test_what_is_no_correction_is_refused_and_changes_nothing(
    searched: SearchedLibrary, page: PageClient, sent: object
) -> None:
    stem_id = ids_of(page)["kick.wav"]
    assert page.refused(f"/api/stem/{stem_id}/correction", sent, "PUT")
    assert stored(searched, "SELECT * FROM corrections") == []


@pytest.mark.parametrize(("part", "sent"), [("rating", {"rating": 3}), ("correction", {"column": "bpm", "value": 3})])
def test_a_stem_that_is_not_there_is_not_made(
    searched: SearchedLibrary, page: PageClient, part: str, sent: object
) -> None:
    assert "no stem has this id" in page.refused(f"/api/stem/{'0' * 16}/{part}", sent, "PUT", 404)
    assert stored(searched, "SELECT * FROM corrections") == []


def test_a_database_that_is_held_for_long_is_said(
    searched: SearchedLibrary, page: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "LOCKED_DATABASE_S", 0.1)
    stem_id = ids_of(page)["kick.wav"]
    with contextlib.closing(sqlite3.connect(searched.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        error = page.refused(f"/api/stem/{stem_id}/rating", {"rating": 3}, "PUT", 409)
        assert "another program has held the database" in error
        other.execute("ROLLBACK")
    assert page.send("PUT", f"/api/stem/{stem_id}/rating", {"rating": 3})["rating"] == 3


def test_a_rating_shows_also_while_the_library_is_out_of_date(searched: SearchedLibrary, page: PageClient) -> None:
    stem_id = ids_of(page)["kick.wav"]
    searched.add("/music/new.wav")
    page.send("PUT", f"/api/stem/{stem_id}/rating", {"rating": 3})
    assert {row["name"]: row["rating"] for row in page.rows()}["kick.wav"] == 3
