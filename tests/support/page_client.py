"""The page's application, asked as the page asks it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from libraries import SearchedLibrary, direction, is_loop
from stem_dataset.config import Config
from stem_dataset.page.app import STATIC, make_app
from stem_dataset.page.desk import Desk
from stem_dataset.page.opened import OpenLibrary
from stem_dataset.page.safety import OwnPagesOnly

PORT = 8765
ORIGIN = f"http://127.0.0.1:{PORT}"


class PageClient:
    """Sends what the page sends, and checks that what comes back is what the page expects."""

    def __init__(self, desk: Desk, static: Path = STATIC) -> None:
        self.desk = desk
        self.http = TestClient(OwnPagesOnly(make_app(desk, static), PORT), base_url=ORIGIN)

    def get(self, address: str, status: int = 200) -> Any:
        """Return the JSON at an address."""
        answer = self.http.get(address)
        assert answer.status_code == status, answer.text
        return answer.json()

    def send(self, method: str, address: str, value: Any, status: int = 200) -> Any:
        """Send JSON, and return what comes back."""
        answer = self.http.request(method, address, json=value, headers={"Origin": ORIGIN})
        assert answer.status_code == status, answer.text
        return answer.json()

    def search(self, **question: Any) -> dict[str, Any]:
        """Search, and return the answer."""
        found: dict[str, Any] = self.send("POST", "/api/search", question)
        return found

    def rows(self, **question: Any) -> list[dict[str, Any]]:
        """Search, and return all rows."""
        found = self.search(**question)
        rows: list[dict[str, Any]] = self.get(f"/api/rows?result={found['result']}&count=1000")["rows"]
        assert len(rows) == min(found["rows"], 1000)
        return rows

    def names(self, **question: Any) -> list[str]:
        """Search, and return the names of the files."""
        return [row["name"] for row in self.rows(**question)]

    def refused(self, address: str, value: Any, method: str = "POST", status: int = 400) -> str:
        """Send JSON that is refused, and return the sentence that says why."""
        answer = self.send(method, address, value, status)
        assert answer.keys() == {"error"}
        return str(answer["error"])


@contextlib.contextmanager
def opened_page(library: SearchedLibrary, **settings: Any) -> Iterator[PageClient]:
    """Open the page on a library."""
    config = Config(
        **{"database": library.database, "model_cache": library.folder / "cache", "stems": None, **settings}
    )
    with (
        contextlib.closing(OpenLibrary(config, lambda *_: None)) as opened,
        contextlib.closing(Desk(config, opened)) as desk,
    ):
        yield PageClient(desk)


@pytest.fixture
def page(searched: SearchedLibrary) -> Iterator[PageClient]:
    """The page on a library of four stems, whose vectors are at right angles."""
    fill(searched)
    with opened_page(searched) as client:
        yield client


def fill(library: SearchedLibrary) -> None:
    """Add four stems."""
    library.add("/music/Drums/kick.wav", direction(x=1), bpm=None, features=is_loop(False), duration_s=0.5)
    library.add(
        "/music/Loops/beat.wav", direction(y=1), category="drum_loop", bpm=124.0, features=is_loop(True), duration_s=8.0
    )
    library.add(
        "/music/Bass/deep.flac", direction(z=1), category="bass", key="Am", features=is_loop(False), duration_s=2.0
    )
    library.add("/music/Misc/odd.wv", direction(u=1), category="unknown", features=is_loop(None), duration_s=1.0)
