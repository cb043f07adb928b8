"""A hundred thousand rows of a real database in a real browser: the list scrolls to the last of them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from browsing import Visit, needs_chromium, serving, visiting
from libraries import STAND_IN_MODEL
from records import PROVENANCE, record
from stem_dataset.database.stems import Database

pytestmark = needs_chromium
ROWS = 100_000
# The database's own way to make rows takes a minute for this many.
MULTIPLY = """
WITH RECURSIVE numbers (number) AS (VALUES (1) UNION ALL SELECT number + 1 FROM numbers WHERE number < ?)
INSERT INTO stems ({columns}) SELECT {values} FROM stems, numbers"""
CHANGED = {
    "id": "printf('%016x', number)",
    "original_file": "printf('/music/%02d/stem %06d.wav', number / 1000, number)",
    "bpm": "60 + number % 120",
    "path": "NULL",
}


def make_rows(database: Path) -> None:
    """Make a database of `ROWS` stems, which differ in id, path and tempo."""
    with contextlib.closing(Database(database)) as filled:
        filled.insert([record("/music/00/stem 000000.wav", embedding_model=STAND_IN_MODEL)], PROVENANCE)
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(stems)")]
        values = [CHANGED.get(column, column) for column in columns]
        statement = MULTIPLY.format(columns=", ".join(columns), values=", ".join(values))
        connection.execute(statement, (ROWS - 1,))


@pytest.fixture(scope="module")
def many(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    folder = tmp_path_factory.mktemp("many")
    make_rows(folder / "stems.db")
    with serving(folder / "stems.db", folder) as address, visiting(chromium, address) as visit:
        visit.listen()
        visit.go()
        yield visit
        # None of the files exists, so none can be played.
        assert [problem for problem in visit.problems if "404 (Not Found)" not in problem] == []
    for file in (folder / "stems.db", *(folder / "stems.db.search").glob("*-*")):
        file.unlink()  # half a gigabyte


def test_all_of_a_hundred_thousand_rows_are_found_and_scrolled_to(many: Visit) -> None:
    expect(many.count).to_contain_text("100,000")
    expect(many.row("stem 000000.wav")).to_be_in_viewport()
    many.ask("() => { const box = document.getElementById('scroller'); box.scrollTop = box.scrollHeight; }")
    expect(many.row("stem 099999.wav")).to_be_in_viewport(ratio=0.9)
    many.page.locator("#scroller").focus()
    many.press("Home")
    expect(many.row("stem 000000.wav")).to_be_in_viewport(ratio=0.9)


def test_a_filter_of_a_hundred_thousand_rows_leaves_those_that_pass(many: Visit) -> None:
    many.go("#bpm=179-179")
    expect(many.count).to_contain_text("833 of 100,000")
    expect(many.row("stem 000119.wav")).to_be_in_viewport()
