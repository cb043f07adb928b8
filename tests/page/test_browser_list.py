"""The list of a million stems in a real browser: it scrolls to each, and the keys never lose their place.

The server's part of a million rows is played by the test, which makes up each row from its index: a real database of
that size takes minutes to make.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import Page, Route, expect

from browsing import NARROW, Visit, needs_chromium

pytestmark = needs_chromium
MILLION = 1_000_000
MADE_UP = ("**/api/search", "**/api/rows?**", "**/api/result/positions?**", "**/api/waveform/*")
NO_WAVEFORM = {"peaks": [], "seconds": 1}


def invented_row(index: int) -> dict[str, object]:
    """Return the row at an index of the result, as the server would."""
    unknown = {"cosine": None, "key": None, "bpm": None, "rating": None}
    return {
        **unknown,
        "rank": index + 1,
        "id": f"{index:016x}",
        "name": f"stem {index}.wav",
        "folder": "/music",
        "path": f"/music/stem {index}.wav",
        "category": "kick",
        "seconds": 1.0,
        "is_loop": False,
        "tags": [],
        "ok": True,
        "quality": [],
        "corrected": [],
        "audio": None,
    }


def play_a_million(page: Page, asked: list[int]) -> None:
    """Answer searches and rows as for a million stems; `asked` gets the first index of each request for rows."""
    none = {"edges": [0, 1], "counts": [0], "missing": 0}
    no_names: dict[str, object] = {"names": [], "counts": [], "missing": 0}
    histograms = {"bpm": none, "seconds": none, "category": no_names, "key": no_names}

    def found(route: Route) -> None:
        # The real one has the name of the library's state.
        real = route.fetch().json()
        invented = {"result": "million", "rows": MILLION, "notes": [], "histograms": histograms}
        route.fulfill(json={**real, **invented})

    def rows(route: Route) -> None:
        given = parse_qs(urlparse(route.request.url).query)
        start, count = int(given["from"][0]), int(given["count"][0])
        asked.append(start)
        route.fulfill(json={"rows": [invented_row(index) for index in range(start, min(MILLION, start + count))]})

    answers = (found, rows, lambda route: route.fulfill(body=b""), lambda route: route.fulfill(json=NO_WAVEFORM))
    for address, answer in zip(MADE_UP, answers, strict=True):
        page.route(address, answer)


@pytest.fixture
def million(visit: Visit) -> Iterator[tuple[Visit, list[int]]]:
    """The page with a million rows, and the places that it has asked for."""
    asked: list[int] = []
    play_a_million(visit.page, asked)
    visit.page.reload()
    expect(visit.rows.first).to_contain_text("stem 0.wav")
    yield visit, asked
    for address in MADE_UP:
        visit.page.unroute(address)


def current(visit: Visit) -> tuple[str, str]:
    """Return the row number and the name of the current row, once it is in view."""
    row = visit.page.locator(".row[aria-selected=true]:not(.coming)")
    expect(row).to_be_in_viewport(ratio=0.9)
    return row.get_attribute("aria-rowindex") or "", row.locator(".name").text_content() or ""


def test_the_scroll_bar_reaches_the_last_of_a_million(million: tuple[Visit, list[int]]) -> None:
    visit, asked = million
    expect(visit.page.locator("#grid")).to_have_attribute("aria-rowcount", str(MILLION + 1))
    visit.ask("() => { const box = document.getElementById('scroller'); box.scrollTop = box.scrollHeight; }")
    last = visit.row(f"stem {MILLION - 1}.wav")
    expect(last).to_be_in_viewport(ratio=0.9)
    box, frame = last.bounding_box(), visit.page.locator("#scroller").bounding_box()
    assert box
    assert frame
    assert abs(box["y"] + box["height"] - frame["y"] - frame["height"]) < 2
    visit.ask("() => { document.getElementById('scroller').scrollTop = 0; }")
    expect(visit.row("stem 0.wav").first).to_be_in_viewport()
    assert len(asked) < 8


def test_half_way_down_the_scroll_bar_is_half_way_down_the_list(million: tuple[Visit, list[int]]) -> None:
    visit, _ = million
    visit.ask(
        """() => { const box = document.getElementById('scroller');
        box.scrollTop = (box.scrollHeight - box.clientHeight) / 2; }"""
    )
    expect(visit.row(f"stem {MILLION // 2}.wav")).to_be_in_viewport()


def test_the_keys_go_from_row_to_row_anywhere(million: tuple[Visit, list[int]]) -> None:
    visit, _ = million
    visit.press("End")
    assert current(visit) == (str(MILLION + 1), f"stem {MILLION - 1}.wav")
    visit.press("j")
    assert current(visit) == (str(MILLION + 1), f"stem {MILLION - 1}.wav")
    for number in range(1, 31):
        visit.press("k")
        assert visit.page.get_attribute("#grid", "aria-activedescendant") == f"row-{MILLION - 1 - number}"
    assert current(visit) == (str(MILLION - 29), f"stem {MILLION - 31}.wav")
    visit.press("Home", "PageDown", "ArrowDown")
    index = int(current(visit)[0]) - 2
    assert 10 < index < 60
    visit.press("PageUp")
    assert current(visit)[1] == "stem 1.wav"


def test_the_wheel_moves_by_rows_where_the_scroll_bar_is_scaled(million: tuple[Visit, list[int]]) -> None:
    visit, _ = million
    visit.ask("() => { document.getElementById('scroller').scrollTop = 4_000_000; }")
    visit.page.wait_for_timeout(300)
    place = visit.page.locator("#scroller").bounding_box()
    assert place
    visit.page.mouse.move(place["x"] + 50, place["y"] + 50)

    def first() -> int:
        texts = visit.ask(
            """() => { const top = document.getElementById('scroller').getBoundingClientRect().top;
            return [...document.querySelectorAll('.row')].filter((row) => row.getBoundingClientRect().bottom > top + 1)
                .map((row) => Number(row.dataset.index)); }"""
        )
        return min(map(int, texts))

    before = first()
    visit.page.mouse.wheel(0, 300)
    visit.page.wait_for_timeout(200)
    assert first() - before == 10


def test_the_current_row_stays_current_while_others_are_looked_at(million: tuple[Visit, list[int]]) -> None:
    visit, _ = million
    visit.press("Home", "j", "j")
    visit.ask("() => { document.getElementById('scroller').scrollTop = 4_000_000; }")
    expect(visit.rows.filter(has_text=re.compile(r"stem \d{6}\.wav")).first).to_be_visible()
    active = visit.page.get_attribute("#grid", "aria-activedescendant")
    assert active == "row-2"
    assert visit.page.locator(f"#{active}").count() == 1
    visit.press("j")
    assert current(visit) == ("5", "stem 3.wav")


def test_a_field_stays_open_while_others_are_looked_at(million: tuple[Visit, list[int]]) -> None:
    visit, _ = million
    visit.press("Home", "b")
    visit.page.keyboard.type("12")
    visit.ask("() => { document.getElementById('scroller').scrollTop = 4_000_000; }")
    expect(visit.rows.filter(has_text=re.compile(r"stem \d{6}\.wav")).first).to_be_visible()
    visit.page.keyboard.type("8")
    assert visit.page.locator(".editor input").input_value() == "128"


def test_a_list_that_is_turned_narrow_keeps_its_place(million: tuple[Visit, list[int]]) -> None:
    visit, _ = million
    visit.press("End", "k", "k")
    visit.page.set_viewport_size(NARROW)
    visit.press("k")
    assert current(visit) == (str(MILLION - 2), f"stem {MILLION - 4}.wav")
