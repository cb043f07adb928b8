"""The map of the page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from libraries import SearchedLibrary, direction
from page_client import PageClient, opened_page
from patching import replace_name
from stem_dataset.search.map_process import Standing


def points_of(page: PageClient) -> np.ndarray[Any, Any]:
    """Return the points of the map, (N, 2)."""
    answer = page.http.get("/api/map/points")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    return np.frombuffer(answer.content, "<f4").reshape(-1, 2)


def compute(page: PageClient) -> dict[str, Any]:
    """Have the map computed, and return the standing at the end."""
    assert page.send("POST", "/api/map", {})["state"] == "computing"
    assert page.desk.map.computation is not None
    assert page.desk.map.computation.wait(120).state == "done"
    standing: dict[str, Any] = page.get("/api/map")
    return standing


def test_the_map_is_computed_when_asked_kept_and_extended(searched: SearchedLibrary) -> None:
    for number in range(12):
        searched.add(f"/music/{number}.wav", direction(x=1, y=number, z=number % 3))
    with opened_page(searched) as page:
        standing = page.get("/api/map")
        assert (standing["state"], standing["rows"], standing["error"]) == ("none", 12, None)
        assert page.get("/api/map/points", 404)["error"] == "there is no map yet"
        standing = compute(page)
        assert (standing["state"], standing["missing"], standing["error"]) == ("ready", 0, None)
        points = points_of(page)
        assert points.shape == (12, 2)
        assert np.isfinite(points).all()
        assert np.ptp(points[:, 0]) > 0
        # All is done: nothing is computed again.
        assert page.send("POST", "/api/map", {})["state"] == "ready"
    searched.add("/music/new.wav", direction(x=1, y=3))
    with opened_page(searched) as page:
        standing = page.get("/api/map")
        assert (standing["state"], standing["rows"], standing["missing"]) == ("ready", 13, 1)
        assert np.isnan(points_of(page)[12]).all()
        assert compute(page)["missing"] == 0
        assert np.array_equal(points_of(page)[:12], points)


class Computation:
    """A computation that stands still."""

    def __init__(self, *_: object) -> None:
        self.standing = Standing(activity="laying out", done=3, total=7)
        self.is_stopped = False

    def stop(self) -> None:
        """Note it."""
        self.is_stopped = True


def test_its_progress_is_told_and_it_is_started_once_and_ends_with_the_page(
    searched: SearchedLibrary, page: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "MapComputation", Computation)
    for standing in (page.send("POST", "/api/map", {}), page.get("/api/map")):
        assert (standing["state"], standing["activity"]) == ("computing", "laying out")
        assert (standing["done"], standing["total"]) == (3, 7)
    started: Any = page.desk.map.computation
    page.send("POST", "/api/map", {})
    assert id(page.desk.map.computation) == id(started)
    page.desk.close()
    assert started.is_stopped


def test_a_failure_is_told_and_the_next_try_starts_anew(page: PageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_name(monkeypatch, "MapComputation", Computation)
    page.send("POST", "/api/map", {})
    failed: Any = page.desk.map.computation
    failed.standing = Standing(state="failed", error="memory may have run out")
    standing = page.get("/api/map")
    assert (standing["state"], standing["error"]) == ("none", "memory may have run out")
    assert page.send("POST", "/api/map", {})["state"] == "computing"
    assert page.desk.map.computation is not failed
