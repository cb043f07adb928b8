"""Take the pictures of docs/page.md: the page with the stems of `make demo`, in Chromium.

    python tests/support/screenshots.py

Run `make demo` first. Its database is copied, so the pictures' ratings do not get into it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this is run as a script

from playwright.sync_api import Page, sync_playwright

from browsing import CHROMIUM, CHROMIUM_FLAGS, serving
from workplace import REPOSITORY

DEMO = REPOSITORY / "build" / "demo" / "processed_database"
PICTURES = REPOSITORY / "docs" / "images"
MAP_MS = 300_000


def show_alike(page: Page) -> None:
    """What sounds like a kick, while the second one plays."""
    page.fill("#search", "kick")
    page.keyboard.press("Enter")
    page.locator(".chip[data-label=Words]").wait_for()
    page.get_by_text("kick_punchy_01.wav").first.click()
    page.keyboard.press("m")
    page.locator(".chip[data-label=Like]").wait_for()
    page.locator(".chip[data-label=Words] button").click()
    page.locator(".chip[data-label=Words]").wait_for(state="detached")
    page.fill("#seconds", "0.2-2")
    page.keyboard.press("Enter")
    page.locator(".chip[data-label=Seconds]").wait_for()
    page.wait_for_timeout(1_000)
    page.locator("#grid").focus()
    for key in ("j", "5", "j", "4", "j", "3", "j"):
        page.keyboard.press(key)
        page.wait_for_timeout(400)
    page.keyboard.press("k")
    page.wait_for_timeout(150)
    page.keyboard.press(" ")


def show_selection(page: Page) -> None:
    """A part of the map that was selected with the box, and a correction."""
    frame = page.locator("#map-frame").bounding_box()
    assert frame
    page.get_by_role("button", name="Box", exact=True).click()
    page.mouse.move(frame["x"] + 4, frame["y"] + frame["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.4, frame["y"] + frame["height"] * 0.6, steps=5)
    page.mouse.up()
    page.get_by_text("selected").wait_for()
    page.wait_for_timeout(1_000)
    page.mouse.move(0, 0)
    page.locator("#grid").focus()
    page.keyboard.press("j")
    page.keyboard.press("b")


def main() -> int:
    """Take both pictures and return the exit code."""
    if CHROMIUM is None or not DEMO.exists():
        print("needs Chromium on the PATH, and what `make demo` leaves in build/demo", file=sys.stderr)
        return 2
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        copy = Path(shutil.copytree(DEMO, Path(folder) / "copy"))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        with serving(copy / "stems.db", Path(folder)) as address:
            for name, scheme, show in (("page", "light", show_alike), ("map", "dark", show_selection)):
                page = browser.new_page(viewport={"width": 1280, "height": 760})
                page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
                page.goto(address)
                page.locator(".row:not(.coming)").first.wait_for()
                page.locator("#map-state").wait_for(state="hidden", timeout=MAP_MS)
                show(page)
                page.wait_for_timeout(1_000)
                page.locator("#message").evaluate("message => { message.textContent = ''; }")
                page.screenshot(path=PICTURES / f"{name}.png")
                page.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
