"""What a browser makes of the page: hostile names as text, narrow screens, contrast, and who may be asked for what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from browsing import BROKEN, HOSTILE, HOSTILE_FOLDER, MARKUP, NARROW, Visit, needs_chromium
from stem_dataset.logs import printable
from stem_dataset.page.app import STATIC
from workplace import Workplace

NEVER_CODE = (
    r"\beval\(",
    r"\bnew Function\b",
    r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write)\b",
    r"https?://(?!www\.w3\.org/)",
)
OURS = sorted(path for path in STATIC.iterdir() if path.is_file())


# -- hostile names ----------------------------------------------------------------------------------------------------


def shown(name: str) -> str:
    """Return how the page shows a file's name."""
    return printable(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


@needs_chromium
def test_hostile_names_are_text_wherever_they_are_shown(visit: Visit, small_library: Workplace) -> None:
    names = {name.rpartition("/")[2] for name in small_library.originals()}
    assert set(HOSTILE) <= names
    assert {shown(name) for name in names} == set(visit.names())
    for name in MARKUP:
        visit.rows.get_by_text(shown(name), exact=True).click()
        expect(visit.page.locator("#playing-name")).to_have_text(shown(name))
        visit.press("m")
        expect(visit.chips.first.locator("bdi")).to_have_text(shown(name))
        visit.press("5")
        expect(visit.page.locator("#message")).to_have_text(f"{shown(name)} rated 5 of 5")
        visit.press("x", "Backspace")
        expect(visit.page.locator("#message")).to_have_text(f"Rating of {shown(name)} removed")
    assert visit.page.locator("main img, main svg, footer img").count() == 0
    assert visit.page.locator("#playing-facts").text_content() or "".endswith(HOSTILE_FOLDER)


@needs_chromium
def test_hostile_words_in_the_address_are_text(visit: Visit) -> None:
    hostile = "%3Cimg%20src%3Dx%20onerror%3Dhacked%3D1%3E"
    visit.go(f"#q={hostile}&category={hostile}&key={hostile}&rating=3&map={hostile}")
    expect(visit.chips.locator("bdi").first).to_have_text("<img src=x onerror=hacked=1>")
    expect(visit.page.locator("#notes")).to_contain_text("give a key, as C, Am, F#m or Bb")
    assert visit.page.locator("img").count() == 0
    visit.expect_problem("400")


@needs_chromium
def test_a_hostile_category_is_text_in_list_chart_and_menu(visit: Visit, small_library: Workplace) -> None:
    category = "<img src=x onerror=hacked=1>"
    visit.row("two").locator(".c-category").dblclick()
    visit.page.locator(".editor input").fill(category)
    visit.press("Enter")
    expect(visit.row("two").locator(".c-category")).to_have_text(category)
    visit.page.reload()
    expect(visit.page.locator("#chart-category .bar-name").filter(has_text=category)).to_have_count(1)
    expect(visit.page.locator("#category-choices").get_by_text(category)).to_have_count(1)
    assert visit.page.locator("img").count() == 0
    small_library.change("DELETE FROM corrections WHERE value = ?", category)


@needs_chromium
def test_the_quarantine_shows_names_and_reasons_as_text(visit: Visit) -> None:
    expect(visit.page.locator("#quarantined")).to_have_text(str(len(BROKEN)))
    visit.press("q")
    rows = visit.page.locator("#quarantine-rows tr")
    expect(rows).to_have_count(len(BROKEN))
    for name in BROKEN:
        row = rows.filter(has=visit.page.get_by_text(name, exact=True))
        expect(row.locator("strong")).to_have_text("LibsndfileError")
        expect(row.locator(".path")).to_contain_text(f"stems/{name}")
    assert visit.page.locator("main img").count() == 0
    assert visit.page.url.endswith("#quarantine=1")
    visit.page.go_back()
    expect(visit.page.locator("#quarantine-panel")).not_to_be_visible()
    expect(visit.page.locator("#grid")).to_be_visible()


# -- looks ------------------------------------------------------------------------------------------------------------


@needs_chromium
def test_nothing_is_cut_off_at_360_pixels(visit: Visit) -> None:
    visit.page.set_viewport_size(NARROW)
    visit.rows.first.click()
    visit.press("m")
    expect(visit.chips).to_have_count(1)
    visit.page.click("#filters-toggle")
    for view in ("List", "Map", "Charts", "List"):
        visit.page.get_by_role("button", name=view, exact=True).click()
        assert visit.ask("() => document.documentElement.scrollWidth") == NARROW["width"], view
        wide = visit.ask(
            """() => [...document.querySelectorAll("header *, .filters *, .summary *, main > *, #stars *")]
            .filter((one) => one.checkVisibility() && !one.closest(".unseen, .menu-body, svg"))
            .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5).map((one) => one.outerHTML)"""
        )
        assert wide == [], view
    visit.press("q")
    assert visit.ask("() => document.documentElement.scrollWidth") == NARROW["width"]


@needs_chromium
def test_a_tab_of_a_narrow_screen_leaves_the_quarantine(visit: Visit) -> None:
    visit.page.set_viewport_size(NARROW)
    for view, panel in (("List", "#list-panel"), ("Charts", "#charts")):
        visit.page.get_by_role("button", name="Quarantine").click()
        expect(visit.page.locator("#quarantine-panel")).to_be_visible()
        visit.page.get_by_role("button", name=view, exact=True).click()
        expect(visit.page.locator(panel)).to_be_visible()
        expect(visit.page.locator("#quarantine-panel")).not_to_be_visible()
        expect(visit.page.locator("#quarantine-toggle")).to_have_attribute("aria-pressed", "false")


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(visit: Visit, scheme: str) -> None:
    visit.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    colours = visit.ask(
        """() => Object.fromEntries(["text", "faint", "accent", "warn", "error", "star", "on-accent", "paper", "ground",
            "sunk", "accent-ground"].map((name) => {
            const probe = document.createElement("i");
            probe.style.color = `var(--${name})`;
            document.body.append(probe);
            const colour = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
            probe.remove();
            return [name, colour]; }))"""
    )
    assert (luminance(colours["paper"]) < 0.1) == (scheme == "dark")
    pairs = [(text, ground) for text in ("text", "faint", "warn") for ground in ("paper", "ground", "sunk")]
    pairs += [("accent", "paper"), ("accent", "accent-ground"), ("text", "accent-ground"), ("faint", "accent-ground")]
    pairs += [("error", "ground"), ("star", "paper"), ("on-accent", "accent"), ("paper", "text")]
    too_faint = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs}
    assert {pair: ratio for pair, ratio in too_faint.items() if ratio < 4.5} == {}  # WCAG 2.2, level AA
    visit.page.emulate_media(color_scheme="light")


def luminance(colour: list[float]) -> float:
    """Return the relative luminance of WCAG 2.2, 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (each / 255 for each in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    """Return the contrast of WCAG 2.2, 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@needs_chromium
def test_what_is_found_is_said_to_screen_readers(visit: Visit) -> None:
    expect(visit.page.get_by_role("status").filter(has_text="stems")).to_have_count(1)
    snapshot = visit.page.locator("#grid").aria_snapshot()
    assert snapshot.startswith('- grid "Stems":')
    assert 'columnheader "BPM"' in snapshot
    assert 'gridcell "124"' in snapshot


# -- what the browser may do ------------------------------------------------------------------------------------------


@needs_chromium
def test_the_page_asks_nobody_but_its_server(visit: Visit) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    visit.page.reload()
    visit.rows.first.click()
    visit.page.locator("#waveform[data-drawn]").wait_for()
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith(visit.address)] == []


@needs_chromium
def test_an_injected_script_would_not_run(visit: Visit) -> None:
    # Later, since a browser lets what a test itself asks make functions of texts.
    visit.ask(
        """() => { setTimeout(() => {
            const script = document.createElement("script");
            script.textContent = "window.injected = 1";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<svg onload='injected=1'>");
            try { new Function("window.injected = 1")(); } catch (error) { document.title = error.name; }
        }, 50); }"""
    )
    expect(visit.page).to_have_title("EvalError")
    visit.page.wait_for_timeout(200)
    assert visit.ask("() => typeof injected") == "undefined"
    assert len([problem for problem in visit.problems if "Content Security Policy" in problem]) == 2
    visit.problems.clear()


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_no_static_file_makes_code_or_html_of_texts_or_names_another_server(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [pattern for pattern in NEVER_CODE if re.search(pattern, text)] == []
    if path.suffix == ".html":
        assert re.findall(r"<script(?![^>]*\bsrc=)|\son\w+=|<style|\sstyle=", text) == []


@pytest.mark.parametrize("path", [path for path in OURS if path.suffix == ".js"], ids=lambda path: path.name)
def test_a_module_of_the_page_says_what_it_answers_and_stays_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("/**")
    assert len(lines) <= 450
    assert [number for number, line in enumerate(lines, 1) if len(line) > 120] == []
