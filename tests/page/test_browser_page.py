"""The page in a real browser: search, filter, hear, rate and correct, with a mouse and with the keyboard alone."""

from __future__ import annotations

import os
import re

import pytest
from playwright.sync_api import expect

from browsing import BASSES, HOSTILE, KICKS, LOOPS, UNSURE, Visit, needs_chromium
from pages import page, section
from workplace import Workplace

pytestmark = needs_chromium
ALL = len(HOSTILE) + len(KICKS) + len(BASSES) + len(LOOPS)


# -- finding ----------------------------------------------------------------------------------------------------------


def test_words_rank_stems_and_stand_in_the_address(visit: Visit) -> None:
    visit.page.fill("#search", "punchy kick")
    expect(visit.chips).to_have_text(["Wordspunchy kick×"])
    expect(visit.rows.first).to_contain_text("kick_punchy_01.wav")
    assert visit.page.url.endswith("#q=punchy+kick")
    visit.page.reload()
    expect(visit.rows.first).to_contain_text("kick_punchy_01.wav")
    assert visit.page.input_value("#search") == "punchy kick"


def test_a_filter_becomes_a_chip_that_removes_it(visit: Visit) -> None:
    visit.page.click("#category-menu summary")
    visit.page.check("#category-choices input[value=kick]")
    expect(visit.count).to_have_text(f"{len(KICKS)} of {ALL} stems")
    visit.page.select_option("#kind", "one_shots")
    expect(visit.chips).to_have_count(2)
    visit.press("Escape")  # closes the menu, which would lie over the chips
    visit.page.locator(".chip[data-label=Category] button").click()
    expect(visit.chips).to_have_text(["Kindone-shots×"])
    visit.page.get_by_role("button", name="Remove the filter Kind: one-shots").click()
    expect(visit.count).to_have_text(f"{ALL} stems")
    assert visit.page.url == visit.address


def test_back_and_forward_go_through_the_filters(visit: Visit) -> None:
    visit.page.fill("#bpm", "88-92")
    visit.page.press("#bpm", "Enter")
    expect(visit.count).to_have_text(f"1 of {ALL} stems")
    visit.page.check("#half-double")
    expect(visit.count).to_have_text(f"2 of {ALL} stems")
    visit.page.go_back()
    expect(visit.count).to_have_text(f"1 of {ALL} stems")
    assert not visit.page.is_checked("#half-double")
    visit.page.go_back()
    expect(visit.count).to_have_text(f"{ALL} stems")
    visit.page.go_forward()
    expect(visit.count).to_have_text(f"1 of {ALL} stems")
    assert visit.page.input_value("#bpm") == "88-92"


def test_an_address_with_every_filter_shows_them_all(visit: Visit) -> None:
    sounds = "q=kick&category=kick&bpm=90-&half-double=1&key=Am&related=1&kind=loops"
    visit.go(f"#{sounds}&seconds=0.1-9&folder=Drums&rating=3&ok=1")
    labels = "Words Category BPM Key Kind Seconds Folder Rating Quality".split()
    expect(visit.page.locator(".chip .faint")).to_have_text(labels)
    expect(visit.page.locator("#empty")).to_have_text("No stem passes. Remove a filter above.")
    visit.press("x")
    expect(visit.count).to_have_text(f"{ALL} stems")


def test_a_value_that_is_no_tempo_is_explained(visit: Visit) -> None:
    visit.page.fill("#bpm", "fast")
    visit.page.press("#bpm", "Enter")
    expect(visit.page.locator("#notes")).to_contain_text("give a tempo in beats per minute")
    visit.expect_problem("400")


def test_what_needs_a_listen_is_one_click_away(visit: Visit) -> None:
    visit.page.click("#listen")
    expect(visit.chips).to_have_text(["Needsa listen×"])
    assert visit.page.get_attribute("#listen", "aria-pressed") == "true"
    expect(visit.count).to_have_text(f"1 of {ALL} stems")
    expect(visit.rows).to_have_count(1)
    expect(visit.rows.locator(".name")).to_have_text(UNSURE)
    expect(visit.rows.locator(".warning")).to_have_text("quality issues")
    visit.page.click("#listen")
    expect(visit.chips).to_have_count(0)


def test_a_click_on_a_head_sorts(visit: Visit) -> None:
    visit.page.click("#head [data-sort=bpm]")
    expect(visit.rows.first).to_contain_text("groove_90bpm_loop.wav")
    expect(visit.page.locator("#head [aria-sort=ascending]")).to_have_text("BPM")
    visit.page.click("#head [data-sort=bpm]")
    expect(visit.rows.first).to_contain_text("groove_180bpm_loop.wav")
    expect(visit.page.locator("#head [aria-sort=descending]")).to_have_text("BPM")
    visit.page.click("#head [data-sort=bpm]")
    expect(visit.page.locator("#head [aria-sort]")).to_have_count(0)


def test_a_bar_of_a_chart_filters_with_the_mouse_and_with_the_keyboard(visit: Visit) -> None:
    visit.page.locator("#chart-category .bar", has_text="bass").click()
    expect(visit.chips).to_have_text(["Categorybass×"])
    expect(visit.count).to_have_text(f"{len(BASSES)} of {ALL} stems")
    visit.press("x")
    expect(visit.count).to_have_text(f"{ALL} stems")
    visit.page.locator("#chart-bpm .bars").focus()
    visit.press("Home", "Enter")
    expect(visit.count).to_have_text(f"1 of {ALL} stems")
    expect(visit.rows.first).to_contain_text("groove_90bpm_loop.wav")


def test_a_drag_over_a_chart_filters_by_a_range(visit: Visit) -> None:
    bars = visit.page.locator("#chart-bpm .bar:not(.none)")
    first, second = (bars.nth(place).bounding_box() for place in (0, 1))
    assert first
    assert second
    visit.page.mouse.move(first["x"] + 1, first["y"] + 20)
    visit.page.mouse.down()
    visit.page.mouse.move(second["x"] + 1, second["y"] + 20, steps=4)
    visit.page.mouse.up()
    expect(visit.count).to_have_text(f"2 of {ALL} stems")
    expect(visit.rows).to_have_count(2)
    assert sorted(visit.names()) == ["groove_124bpm_loop.wav", "groove_90bpm_loop.wav"]


def test_more_like_this_and_less_like_this_become_chips(visit: Visit) -> None:
    visit.row("bass_low_Am.wav").click()
    visit.press("m")
    expect(visit.chips).to_have_text(["Likebass_low_Am.wav×"])
    expect(visit.rows.first).to_contain_text("bass_low_Am.wav")
    expect(visit.rows.first.locator(".c-rank")).to_have_attribute("title", "Cosine 1.000")
    visit.row("kick_deep_03.wav").click()
    visit.press("l")
    expect(visit.chips).to_have_text(["Likebass_low_Am.wav×", "Unlikekick_deep_03.wav×"])
    visit.page.reload()
    expect(visit.chips).to_have_text(["Likebass_low_Am.wav×", "Unlikekick_deep_03.wav×"])


# -- hearing ----------------------------------------------------------------------------------------------------------


def test_a_click_plays_a_stem_and_prepares_the_next(visit: Visit) -> None:
    ids = {name: visit.row(name).get_attribute("data-id") for name in LOOPS}
    visit.row("groove_124bpm_loop.wav").click()
    playing = visit.page.locator(f"audio[data-id='{ids['groove_124bpm_loop.wav']}']")
    for _ in range(100):
        if playing.evaluate("audio => audio.currentTime") > 0.2:
            break
        visit.page.wait_for_timeout(50)
    assert playing.evaluate("audio => [audio.paused, audio.currentTime > 0.2]") == [False, True]
    expect(visit.page.locator("#play")).to_have_attribute("aria-label", "Stop")
    expect(visit.page.locator("#playing-name")).to_have_text("groove_124bpm_loop.wav")
    following = visit.page.locator(f"audio[data-id='{ids['groove_180bpm_loop.wav']}']")
    following.wait_for(state="attached")
    assert following.evaluate("audio => [audio.preload, audio.paused]") == ["auto", True]
    visit.press(" ")
    assert playing.evaluate("audio => audio.paused")
    expect(visit.page.locator("#play")).to_have_attribute("aria-label", "Play")


def test_the_first_stem_found_is_ready_to_be_heard(visit: Visit) -> None:
    visit.go("#folder=Loops")
    first = visit.rows.first.get_attribute("data-id")
    expect(visit.page.locator("audio")).to_have_attribute("data-id", first or "")


def test_a_click_on_the_waveform_seeks(visit: Visit) -> None:
    visit.row("groove_124bpm_loop.wav").click()
    visit.page.locator("#waveform[data-drawn]").wait_for()
    visit.press(" ")
    waveform = visit.page.locator("#waveform")
    place = waveform.bounding_box()
    assert place
    visit.page.mouse.click(place["x"] + place["width"] * 0.75, place["y"] + 10)
    expect(waveform).to_have_attribute("aria-valuenow", re.compile(r"1\.[5-9]"))
    visit.press("Home")
    expect(waveform).to_have_attribute("aria-valuenow", re.compile(r"0\.[0-5]"))


def test_the_original_is_played_when_it_is_wanted(visit: Visit) -> None:
    visit.row("groove_180bpm_loop.wav").click()
    with visit.page.expect_response("**/audio/*?original=1") as response:
        visit.press("o")
    assert response.value.status in (200, 206)
    expect(visit.page.locator("#original")).to_have_attribute("aria-pressed", "true")


def test_a_stem_whose_files_are_gone_says_so(visit: Visit, small_library: Workplace) -> None:
    (row,) = [row for row in small_library.rows() if row["original_file"].endswith("kick_soft_02.wav")]
    moved = [(path, path + ".away") for path in (row["original_file"], row["path"])]
    for path, away in moved:
        os.rename(path, away)
    try:
        visit.row("kick_soft_02.wav").click()
        expect(visit.page.locator("#message")).to_have_text(
            "kick_soft_02.wav cannot be played: its WAV, or the page's server, may be gone"
        )
        visit.page.wait_for_load_state("networkidle")
    finally:
        for path, away in moved:
            os.rename(away, path)
    visit.expect_problem("404")
    visit.expect_problem("404")


# -- ratings and corrections ------------------------------------------------------------------------------------------


def stored(place: Workplace, name: str) -> tuple[int | None, dict[str, str]]:
    """Return a stem's rating and its corrections, as the database has them."""
    (row,) = [row for row in place.rows() if row["original_file"].endswith(name)]
    corrections = place.rows(f"SELECT column_name, value FROM corrections WHERE stem_id = '{row['id']}'")
    return row["user_rating"], {each["column_name"]: each["value"] for each in corrections}


def test_a_digit_rates_and_backspace_removes_the_rating(visit: Visit, small_library: Workplace) -> None:
    visit.row("kick_punchy_01.wav").click()
    visit.press("4")
    expect(visit.row("kick_punchy_01.wav").locator(".star.on")).to_have_count(4)
    assert stored(small_library, "kick_punchy_01.wav")[0] == 4
    visit.page.locator("#stars button").first.click()
    expect(visit.row("kick_punchy_01.wav").locator(".c-rating")).to_contain_text("0 of 5")
    assert stored(small_library, "kick_punchy_01.wav")[0] == 0
    visit.press("Backspace")
    expect(visit.row("kick_punchy_01.wav").locator(".c-rating")).to_contain_text("not rated")
    assert stored(small_library, "kick_punchy_01.wav")[0] is None


def test_a_click_on_a_star_rates(visit: Visit, small_library: Workplace) -> None:
    visit.row("kick_deep_03.wav").locator("[data-stars='3']").click()
    expect(visit.row("kick_deep_03.wav").locator(".star.on")).to_have_count(3)
    assert stored(small_library, "kick_deep_03.wav")[0] == 3


def test_a_correction_is_written_marked_and_undone(visit: Visit, small_library: Workplace) -> None:
    cell = visit.row("groove_90bpm_loop.wav").locator(".c-bpm")
    cell.dblclick()
    visit.page.locator(".editor input").fill("87.5")
    visit.press("Enter")
    expect(cell).to_have_text("87.5")
    expect(cell).to_have_class("c-bpm corrected")
    assert float(stored(small_library, "groove_90bpm_loop.wav")[1]["bpm"]) == 87.5
    cell.dblclick()
    visit.page.get_by_role("button", name="Undo your correction").click()
    expect(cell).to_have_text("90")
    expect(cell).to_have_class("c-bpm")
    assert stored(small_library, "groove_90bpm_loop.wav")[1] == {}


def test_an_empty_tempo_says_that_there_is_none(visit: Visit, small_library: Workplace) -> None:
    cell = visit.row("groove_124bpm_loop.wav").locator(".c-bpm")
    cell.dblclick()
    visit.page.locator(".editor input").fill("")
    visit.press("Enter")
    expect(cell).to_have_text("")
    assert stored(small_library, "groove_124bpm_loop.wav")[1] == {"bpm": None}
    visit.press("b", "Tab", "Enter")
    expect(cell).to_have_text("124")


def test_nonsense_is_refused_and_the_field_stays_open(visit: Visit, small_library: Workplace) -> None:
    visit.row("groove_180bpm_loop.wav").locator(".c-bpm").dblclick()
    visit.page.locator(".editor input").fill("-3")
    visit.press("Enter")
    expect(visit.page.locator(".editor input:invalid")).to_have_count(1)
    visit.press("Escape")
    expect(visit.row("groove_180bpm_loop.wav").locator(".c-bpm")).to_have_text("180")
    assert stored(small_library, "groove_180bpm_loop.wav")[1] == {}
    visit.expect_problem("400")


def test_a_new_result_closes_the_field_that_is_open(visit: Visit) -> None:
    visit.row(BASSES[0]).locator(".c-key").dblclick()
    visit.page.locator(".editor input").wait_for()
    visit.ask("() => { location.hash = '#folder=Bass'; }")
    expect(visit.rows).to_have_count(len(BASSES))
    expect(visit.page.locator(".editor")).to_have_count(0)
    visit.press("j")
    expect(visit.page.locator(".row[aria-selected=true]")).to_contain_text(BASSES[0])


# -- the keyboard alone -----------------------------------------------------------------------------------------------


def test_all_can_be_done_with_the_keyboard_alone(visit: Visit, small_library: Workplace) -> None:
    visit.press("/")
    visit.page.keyboard.type("bass_saw")
    visit.press("Enter")
    expect(visit.rows.first).to_contain_text("bass_saw_C.wav")
    visit.press("j")
    expect(visit.page.locator("#playing-name")).to_have_text("bass_saw_C.wav")
    expect(visit.page.locator("[role=row][aria-selected=true]")).to_have_attribute("aria-rowindex", "2")
    assert visit.ask("() => document.activeElement.getAttribute('aria-activedescendant')") == "row-0"
    visit.press("5", "Enter")
    visit.page.keyboard.type("pad")
    visit.press("Tab")
    visit.page.keyboard.type("97")
    visit.press("Tab")
    visit.page.keyboard.type("Dm")
    visit.press("Enter")
    row = visit.row("bass_saw_C.wav")
    expect(row.locator(".c-key")).to_have_text("Dm")
    rating, corrections = stored(small_library, "bass_saw_C.wav")
    assert (rating, corrections["category"], corrections["key"]) == (5, "pad", "Dm")
    assert float(corrections["bpm"]) == 97
    for key in ("Enter", "b", "g"):
        visit.press(key)
        visit.press("Tab", "Enter")
        expect(visit.page.locator(".editor")).to_have_count(0)
    expect(row.locator(".corrected")).to_have_count(0)
    assert stored(small_library, "bass_saw_C.wav")[1] == {}


def test_the_question_mark_shows_the_keys(visit: Visit) -> None:
    visit.press("?")
    expect(visit.page.get_by_role("dialog", name="Keys")).to_be_visible()
    shown = visit.page.locator("#keys-list dt").all_text_contents()
    documented = section(page("docs/page.md"), "Keys")
    expect(visit.page.locator("#keys-list")).to_contain_text("More like this")
    keys = visit.page.locator("#keys-list kbd").all_text_contents()
    assert len(keys) > len(shown) > 20
    assert [key for key in keys if key != "…" and key not in "12345" and f"`{key}`" not in documented] == []
    visit.press("Escape")
    expect(visit.page.locator("#keys")).not_to_be_visible()


def test_letters_in_a_field_are_letters(visit: Visit) -> None:
    visit.press("/")
    visit.page.keyboard.type("mlq5")
    expect(visit.page.locator("#search")).to_have_value("mlq5")
    expect(visit.page.locator("#quarantine-panel")).not_to_be_visible()


def test_every_control_has_a_name_and_can_be_reached(visit: Visit) -> None:
    nameless = visit.ask(
        """() => [...document.querySelectorAll("button, input, select, a[href], [tabindex='0']")].filter((control) =>
        !control.closest("[hidden], dialog") && !(control.getAttribute("aria-label") || control.textContent.trim()
        || control.labels?.length || control.title)).map((control) => control.outerHTML)"""
    )
    assert nameless == []
    reached = set()
    for _ in range(60):
        visit.press("Tab")
        reached.add(visit.ask("() => document.activeElement.id || document.activeElement.dataset.sort"))
    assert {"skip", "search", "listen", "help", "bpm", "key", "ok", "grid", "rank", "map", "waveform"} <= reached


# -- out of the page --------------------------------------------------------------------------------------------------


def test_a_stem_can_be_dragged_out_as_a_file(visit: Visit) -> None:
    row = visit.row("bass_low_Am.wav")
    url, text = visit.ask(
        """id => { const data = new DataTransfer();
        document.querySelector(`[data-id="${id}"]`).dispatchEvent(
            new DragEvent("dragstart", { bubbles: true, dataTransfer: data }));
        return [data.getData("DownloadURL"), data.getData("text/plain")]; }""",
        row.get_attribute("data-id"),
    )
    kind, name, address = url.split(":", 2)
    assert (kind, name) == ("application/octet-stream", "bass_low_Am.wav")
    assert text.endswith("/Bass/bass_low_Am.wav")
    with visit.page.expect_download() as download:
        visit.ask(
            "address => { const link = document.createElement('a'); link.href = address; link.click(); }", address
        )
    assert download.value.suggested_filename == "bass_low_Am.wav"


def test_the_path_is_copied(visit: Visit, small_library: Workplace) -> None:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.row("bass_low_Am.wav").click()
    visit.press("c")
    expect(visit.page.locator("#message")).to_contain_text("Copied: ")
    copied = visit.ask("() => navigator.clipboard.readText()")
    assert copied == os.path.realpath(small_library.input / "Bass" / "bass_low_Am.wav")


@pytest.mark.parametrize("kind", ["m3u", "csv"])
def test_what_is_shown_can_be_exported(visit: Visit, kind: str) -> None:
    visit.go("#folder=Bass")
    expect(visit.count).to_have_text(f"{len(BASSES)} of {ALL} stems")
    visit.page.click("#export summary")
    with visit.page.expect_download() as download:
        visit.page.click(f"#export-{kind}")
    expect(visit.page.locator(f"#export-{kind}")).not_to_be_visible()
    content = download.value.path().read_text(encoding="utf-8")
    assert [name in content for name in (*BASSES, KICKS[0])] == [True, True, False]
