"""The map in a real browser: it is computed, drawn by plotly in its frame, heard, and selected from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from browsing import BASSES, HOSTILE, KICKS, LOOPS, Visit, needs_chromium, visiting

pytestmark = needs_chromium
ALL = len(HOSTILE) + len(KICKS) + len(BASSES) + len(LOOPS)
# The name and the place on the screen of each stem that plotly has drawn in colour.
PLACES = """async () => {
    const frame = document.getElementById("map-frame");
    const corner = frame.getBoundingClientRect();
    const { data, layout } = frame.contentDocument.getElementById("points");
    const points = new Float32Array(await (await fetch("/api/map/points")).arrayBuffer());
    const ids = (await (await fetch(`/api/map/ids?from=0&count=1000`)).json()).ids;
    const share = (value, [from, to]) => (value - from) / (to - from);
    const drawn = new Set(data.filter((trace) => trace.marker.opacity > 0.5)
        .flatMap((trace) => [...trace.x].map((x, place) => `${x} ${trace.y[place]}`)));
    const found = [];
    for (let place = 0; place < ids.length; place += 1) {
        const [x, y] = [points[2 * place], points[2 * place + 1]];
        if (!drawn.has(`${x} ${y}`)) continue;
        const { name } = await (await fetch(`/api/stem/${ids[place]}`)).json();
        found.push([name, corner.left + share(x, layout.xaxis.range) * corner.width,
            corner.top + (1 - share(y, layout.yaxis.range)) * corner.height]);
    }
    return found; }"""


@pytest.fixture(scope="module")
def map_window(chromium: Browser, small_address: str) -> Iterator[Visit]:
    """A window with the map, which is computed for the first test: plotly takes seconds to draw it anew."""
    with visiting(chromium, small_address) as opened:
        opened.listen()
        opened.go()
        opened.page.locator("#map-state").wait_for(state="hidden", timeout=120_000)
        yield opened


@pytest.fixture
def mapped(map_window: Visit) -> Iterator[Visit]:
    """The page with the whole map drawn."""
    map_window.problems.clear()
    map_window.page.locator("#grid").focus()
    map_window.press("x")
    map_window.page.get_by_role("button", name="All", exact=True).click()
    expect(map_window.rows).to_have_count(ALL)
    map_window.page.wait_for_timeout(300)
    yield map_window
    map_window.check()


def places(visit: Visit) -> dict[str, tuple[float, float]]:
    """Return where on the screen the coloured points are, by the stems' names."""
    return {name: (x, y) for name, x, y in visit.ask(PLACES)}


def drag_around(visit: Visit, x: float, y: float, reach: float = 12) -> None:
    """Drag the mouse around a place, as one draws a lasso."""
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -0.8))
    for number, (right, down) in enumerate(corners):
        visit.page.mouse.move(x + right * reach, y + down * reach, steps=3)
        if not number:
            visit.page.mouse.down()
    visit.page.mouse.up()


def test_every_stem_is_a_point_that_says_its_name_and_plays(mapped: Visit) -> None:
    found = places(mapped)
    assert len(found) == ALL
    assert set(found) == set(mapped.names())
    x, y = found[KICKS[0]]
    mapped.page.mouse.move(x - 20, y)
    mapped.page.mouse.move(x, y, steps=3)
    expect(mapped.page.locator("#map-tip")).to_have_text(KICKS[0])
    mapped.page.mouse.down()
    mapped.page.mouse.up()
    expect(mapped.page.locator("#playing-name")).to_have_text(KICKS[0])
    expect(mapped.page.locator(".row[aria-selected=true]")).to_contain_text(KICKS[0])
    ring = mapped.page.locator("#map-ring").bounding_box()
    assert ring
    assert abs(ring["x"] + ring["width"] / 2 - x) < 2
    assert abs(ring["y"] + ring["height"] / 2 - y) < 2


def test_a_lasso_becomes_a_chip_that_outlives_a_reload(mapped: Visit) -> None:
    x, y = places(mapped)[BASSES[0]]
    inside = {name for name, (left, top) in places(mapped).items() if abs(left - x) < 12 and abs(top - y) < 12}
    drag_around(mapped, x, y)
    expect(mapped.chips).to_have_text([f"Map{len(inside)} selected×"])
    expect(mapped.count).to_have_text(f"{len(inside)} of {ALL} stems")
    expect(mapped.rows).to_have_count(len(inside))
    assert set(mapped.names()) == inside
    mapped.page.reload()
    expect(mapped.chips).to_have_text([f"Map{len(inside)} selected×"])
    mapped.page.locator("#map-state").wait_for(state="hidden")
    expect(mapped.rows).to_have_count(len(inside))
    assert set(places(mapped)) == inside
    mapped.page.locator(".chip button").click()
    expect(mapped.count).to_have_text(f"{ALL} stems")


def test_a_box_leaves_no_outline_when_its_filter_is_removed(mapped: Visit) -> None:
    x, y = places(mapped)[BASSES[0]]
    mapped.page.get_by_role("button", name="Box", exact=True).click()
    mapped.page.mouse.move(x - 12, y - 12)
    mapped.page.mouse.down()
    mapped.page.mouse.move(x + 12, y + 12, steps=4)
    mapped.page.mouse.up()
    mapped.page.get_by_role("button", name="Lasso", exact=True).click()
    expect(mapped.chips).to_have_count(1)
    outlines = mapped.page.frame_locator("#map-frame").locator(".shapelayer path")
    expect(outlines).to_have_count(1)
    mapped.page.locator(".chip button").click()
    expect(mapped.count).to_have_text(f"{ALL} stems")
    expect(outlines).to_have_count(0)


def test_what_is_found_is_coloured_and_the_rest_is_grey(mapped: Visit) -> None:
    mapped.page.fill("#folder", "Kicks")
    mapped.page.press("#folder", "Enter")
    expect(mapped.count).to_have_text(f"{len(KICKS)} of {ALL} stems")
    mapped.page.wait_for_timeout(500)
    assert set(places(mapped)) == set(KICKS)


def test_a_corrected_category_has_its_colour_on_the_map_at_once(mapped: Visit) -> None:
    drawn = """() => document.getElementById("map-frame").contentDocument.getElementById("points").data
        .filter((trace) => trace.marker.opacity > 0.5).map((trace) => trace.x.length).sort()"""
    before = mapped.ask(drawn)
    mapped.row(BASSES[0]).locator(".c-category").dblclick()
    mapped.page.keyboard.type("kick")
    mapped.press("Enter")
    expect(mapped.row(BASSES[0]).locator(".c-category")).to_contain_text("kick")
    mapped.page.wait_for_timeout(700)
    corrected = mapped.ask(drawn)
    mapped.row(BASSES[0]).locator(".c-category").dblclick()
    mapped.page.get_by_role("button", name="Undo your correction").click()
    expect(mapped.row(BASSES[0]).locator(".c-category")).to_contain_text("bass")
    mapped.page.wait_for_timeout(700)
    assert corrected != before
    assert mapped.ask(drawn) == before


def test_the_map_needs_no_mouse(mapped: Visit) -> None:
    mapped.page.locator("#map").focus()
    whole = places(mapped)
    mapped.press("+", "+", "ArrowRight")
    mapped.page.wait_for_timeout(300)
    zoomed = places(mapped)
    one, other = BASSES
    assert zoomed[one][0] - zoomed[other][0] == pytest.approx(1.5**2 * (whole[one][0] - whole[other][0]), rel=0.01)
    frame = mapped.page.locator("#map-frame").bounding_box()
    assert frame
    right, bottom = frame["x"] + frame["width"], frame["y"] + frame["height"]
    near = {n for n, (x, y) in places(mapped).items() if frame["x"] < x < right and frame["y"] < y < bottom}
    assert len(near) < len(whole)
    mapped.page.get_by_role("button", name="Select view").click()
    expect(mapped.chips).to_have_text([f"Map{len(near)} selected×"])
    if near:
        expect(mapped.rows).to_have_count(len(near))
    assert set(mapped.names()) == near


def test_only_the_frame_may_make_functions_and_it_knows_no_names(mapped: Visit) -> None:
    frame = mapped.page.request.get(f"{mapped.address}static/map.html")
    policy = frame.headers["content-security-policy"]
    assert "script-src 'self' 'unsafe-eval';" in policy
    assert "connect-src" not in policy  # so default-src 'none' holds
    page = mapped.page.request.get(mapped.address)
    assert "script-src 'self';" in page.headers["content-security-policy"]
    content = mapped.ask("() => document.getElementById('map-frame').contentDocument.documentElement.outerHTML")
    assert [name for name in (*KICKS, *BASSES, "hacked") if name in content] == []


def test_a_narrow_screen_has_the_map_behind_a_tab(mapped: Visit) -> None:
    mapped.page.set_viewport_size({"width": 360, "height": 740})
    expect(mapped.page.locator("#map")).not_to_be_visible()
    mapped.page.get_by_role("button", name="Map", exact=True).click()
    mapped.page.locator("#map-state").wait_for(state="hidden")
    mapped.page.wait_for_timeout(500)
    assert all(0 < x < 360 for x, _ in places(mapped).values())
    mapped.page.set_viewport_size({"width": 1440, "height": 900})
