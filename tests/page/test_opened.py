"""The page while the database changes."""

from __future__ import annotations

import contextlib
import sqlite3
import threading

import pytest

from libraries import SearchedLibrary
from page_client import PageClient, fill, opened_page
from patching import replace_name
from stem_dataset.database.stems import Database
from stem_dataset.search import sidecar

STALE = "the database has changed: this search does not show it yet; search again in a minute"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds since the page was opened; a test may change it."""
    now_s = [1000.0]
    replace_name(monkeypatch, "monotonic_s", lambda: now_s[0])
    return now_s


def test_a_search_shows_a_change_after_a_pause_and_says_so_before(
    searched: SearchedLibrary, clock: list[float]
) -> None:
    fill(searched)
    with opened_page(searched) as page:
        first = page.search()
        state = page.get("/api/library")["state"]
        searched.add("/music/new.wav")
        found = page.search()
        assert (found["rows"], found["notes"]) == (4, [STALE])
        clock[0] += 29
        assert page.search()["rows"] == 4
        clock[0] += 2
        found = page.search()
        assert (found["rows"], found["notes"]) == (5, [])
        assert page.get("/api/library")["state"] != state
        assert "search again" in page.get(f"/api/rows?result={first['result']}", 410)["error"]
        assert page.search()["notes"] == []


def test_the_pause_grows_with_the_time_that_it_takes(
    searched: SearchedLibrary, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sidecar.settled_stamp

    def slow(*arguments: object) -> object:
        clock[0] += 60
        return real(searched.database)

    replace_name(monkeypatch, "settled_stamp", slow)
    fill(searched)
    with opened_page(searched) as page:
        searched.add("/music/new.wav")
        clock[0] += 599
        assert page.search()["rows"] == 4
        assert page.desk.opened.reopening is None
        clock[0] += 2
        # No search waits for a minute.
        found = page.search()
        assert (found["rows"], found["notes"]) == (4, [STALE])
        assert page.desk.opened.reopening is not None
        page.desk.opened.reopening.join(60)
        found = page.search()
        assert (found["rows"], found["notes"]) == (5, [])


def test_rows_are_shown_as_they_are_now(searched: SearchedLibrary, page: PageClient) -> None:
    token = page.search(categories=["kick"])["result"]
    searched.change("UPDATE stems SET bpm = 99, quality_ok = 0 WHERE category = 'kick'")
    (row,) = page.get(f"/api/rows?result={token}")["rows"]
    assert (row["bpm"], row["ok"], row["corrected"]) == (99.0, False, ["bpm"])


def test_a_stem_that_has_been_removed_is_shown_until_the_next_look(searched: SearchedLibrary, page: PageClient) -> None:
    (kick,) = page.rows(categories=["kick"])
    searched.change("DELETE FROM stems WHERE category = 'kick'")
    assert page.rows(categories=["kick"])[0]["name"] == "kick.wav"
    assert "no stem has this id" in page.get(f"/api/stem/{kick['id']}", 404)["error"]
    assert page.http.get(f"/audio/{kick['id']}").status_code == 404


def test_while_a_preparer_has_the_database_open_the_page_reads_and_rates(
    searched: SearchedLibrary, clock: list[float], page: PageClient
) -> None:
    with contextlib.closing(Database(searched.database)) as preparer:
        searched.add("/music/new.wav")
        clock[0] += 1000
        assert "new.wav" in page.names()
        stem_id = page.rows()[0]["id"]
        assert page.send("PUT", f"/api/stem/{stem_id}/rating", {"rating": 5})["rating"] == 5
        assert preparer.connection.execute("SELECT count(*) FROM stems WHERE user_rating = 5").fetchone() == (1,)


def test_scrolling_goes_on_while_the_library_is_opened_again(
    searched: SearchedLibrary, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(searched)
    with opened_page(searched) as page:
        token = page.search()["result"]
        searched.add("/music/new.wav")
        clock[0] += 1000
        is_copying, may_end = threading.Event(), threading.Event()
        real = sidecar.settled_stamp

        def held(*_: object) -> object:
            is_copying.set()
            assert may_end.wait(60)
            return real(searched.database)

        replace_name(monkeypatch, "settled_stamp", held)
        searching = threading.Thread(target=page.desk.opened.refresh)
        searching.start()
        assert is_copying.wait(60)
        assert len(page.get(f"/api/rows?result={token}")["rows"]) == 4
        # Another tab searches what there was.
        found = page.search()
        assert (found["rows"], found["notes"]) == (4, [STALE])
        may_end.set()
        searching.join(60)
        page.get(f"/api/rows?result={token}", 410)


def test_a_database_that_is_gone_is_said_and_the_page_goes_on(
    searched: SearchedLibrary, clock: list[float], page: PageClient
) -> None:
    content = searched.database.read_bytes()
    searched.database.unlink()
    clock[0] += 1000
    assert "there is no database" in page.refused("/api/search", {}, status=400)
    searched.database.write_bytes(content)
    assert len(page.names()) == 4


def test_another_search_that_makes_the_sidecar_anew_does_not_disturb_the_page(
    searched: SearchedLibrary, page: PageClient
) -> None:
    token = page.search()["result"]
    searched.add("/music/new.wav")
    assert len(searched.names()) == 5
    assert len(page.get(f"/api/rows?result={token}")["rows"]) == 4


def test_an_export_of_a_former_state_breaks_off(
    searched: SearchedLibrary, clock: list[float], page: PageClient
) -> None:
    token = page.search()["result"]
    searched.add("/music/new.wav")
    clock[0] += 1000
    page.search()
    assert "search again" in page.get(f"/api/export?result={token}&format=csv", 410)["error"]


def test_a_database_that_a_writer_holds_is_not_read_in_parts(
    searched: SearchedLibrary, page: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = page.search()["result"]
    replace_name(monkeypatch, "LOCKED_S", 0.1)
    with contextlib.closing(sqlite3.connect(searched.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE stems SET bpm = 1")
        error = page.get(f"/api/rows?result={token}", 409)["error"]
        assert error == "another program holds the database: try again"
        other.execute("ROLLBACK")
    assert page.get(f"/api/rows?result={token}")["rows"][0]["bpm"] is None


def test_if_opening_fails_in_its_thread_the_page_goes_on_and_tries_again(
    searched: SearchedLibrary, clock: list[float], page: PageClient, caplog: pytest.LogCaptureFixture
) -> None:
    opened = page.desk.opened
    opened.took_s = 60
    content = searched.database.read_bytes()
    searched.database.write_bytes(b"no database" * 1000)
    clock[0] += 1000
    assert page.search()["notes"] == [STALE]
    assert opened.reopening is not None
    opened.reopening.join(60)
    assert "the changes of the database cannot be searched" in caplog.text
    searched.database.write_bytes(content)
    assert page.search()["notes"] == [STALE]
    clock[0] += 31
    page.search()
    opened.reopening.join(60)
    assert page.search()["notes"] == []
