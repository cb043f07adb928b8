"""The page in a real Chromium: the browser, a library with hostile names, and the real command that serves it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, ViewportSize, expect, sync_playwright

from audio_files import use_inline_workers, write_cut_flac, write_text, write_tone
from libraries import STAND_IN_MODEL
from workplace import REPOSITORY, Workplace, use_quick_analysis

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")
CHROMIUM_FLAGS = (
    # Tests may run as root. The map needs WebGL, here without a graphics card.
    "--no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --mute-audio --use-angle=swiftshader --enable-unsafe-swiftshader"
).split()
PATIENCE_MS = 15_000
expect.set_options(timeout=PATIENCE_MS)
WIDE: ViewportSize = {"width": 1440, "height": 900}
NARROW: ViewportSize = {"width": 360, "height": 740}

# Each would set `hacked` if the page took it for HTML.
MARKUP = (
    "<img src=x onerror=hacked=1>.wav",
    '"><svg onload=hacked=1>.wav',
    "' onmouseover='hacked=1.wav",
    "${hacked=1}{{hacked=1}}.wav",
)
HOSTILE = (
    *MARKUP,
    "two\nlines.wav",
    "\u202egnp.eldoop.wav",
    "🥁 🎹 ünï.wav",
    f"{'x' * 251}.wav",
    os.fsdecode(b"not utf-8 \xff\xfe.wav"),
)
HOSTILE_FOLDER = "<b>bold & 'quoted' "
KICKS = ("kick_punchy_01.wav", "kick_soft_02.wav", "kick_deep_03.wav")
UNSURE = "kick_soft_02.wav"
BASSES = ("bass_low_Am.wav", "bass_saw_C.wav")
LOOPS = ("groove_90bpm_loop.wav", "groove_124bpm_loop.wav", "groove_180bpm_loop.wav")
BROKEN = ("broken <img src=x onerror=hacked=1>.wav", "broken_cut.flac")


def make_library(place: Workplace) -> None:
    """Fill a database with the real program: hostile names, names that say something, and two broken files."""
    names = [f"Drums/Kicks/{name}" for name in KICKS] + [f"Bass/{name}" for name in BASSES]
    names += [f"Loops/{name}" for name in LOOPS] + [f"{HOSTILE_FOLDER}/{name}" for name in HOSTILE]
    for number, name in enumerate(names):
        path = place.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # macOS allows names in UTF-8 only, and Windows no < > " : or line break.
        with contextlib.suppress(OSError):
            write_tone(path, hz=110 * (1 + number), seconds=2.0 if name.startswith("Loops") else 0.8)
    with contextlib.suppress(OSError):
        write_text(place.input / BROKEN[0])
    write_cut_flac(place.input / BROKEN[1])
    with pytest.MonkeyPatch.context() as patch:
        use_inline_workers(patch)
        use_quick_analysis(patch)
        place.run()
    # The name of a checkpoint that understands no texts: else a search by words would load CLAP.
    place.change("UPDATE stems SET embedding_model = ?", STAND_IN_MODEL)
    place.change("UPDATE stems SET quality_ok = 0 WHERE original_file GLOB ?", f"*{UNSURE}")


@contextlib.contextmanager
def serving(database: Path, folder: Path) -> Iterator[str]:
    """Serve a database with the real command, and give the page's address."""
    log = folder / "serve.log"
    flags = ["--serve", "--no-open", "--database", str(database), "--model-cache", str(folder / "cache")]
    command = [sys.executable, str(REPOSITORY / "search_dataset_sql.py"), *flags]
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen([*command, "--config", str(REPOSITORY / "config.yaml")], stderr=output)
    try:
        yield address_in(log, process)
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert "a fault of this program" not in log.read_text(encoding="utf-8")


def address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait until a server says where it listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"listening on (http://\S+/)", log.read_text(encoding="utf-8"))
        if found:
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"the page is not served: {log.read_text(encoding='utf-8')}")


@dataclass
class Visit:
    """A page that a test has opened."""

    page: Page
    address: str
    problems: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Note what goes wrong in the page."""

        def said(message: ConsoleMessage) -> None:
            # Of the machine without a graphics card.
            if message.type in ("error", "warning") and "GL Driver Message" not in message.text:
                self.problems.append(f"{message.type}: {message.text}")

        self.page.on("console", said)
        self.page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))

    def go(self, hash_: str = "") -> None:
        """Open the page anew, and wait for its answer."""
        self.page.goto("about:blank")  # else only the part behind # would change
        self.page.goto(self.address + hash_)
        self.page.locator(".row:not(.coming), #empty:not([hidden]), #notes.error").first.wait_for()

    @property
    def rows(self) -> Locator:
        return self.page.locator(".row:not(.coming)")

    @property
    def count(self) -> Locator:
        return self.page.locator("#count")

    @property
    def chips(self) -> Locator:
        return self.page.locator(".chip")

    def row(self, name: str) -> Locator:
        """Return the row of a stem by a part of its name."""
        return self.rows.filter(has_text=name)

    def names(self) -> list[str]:
        """Return the names that are shown, the first row's first."""
        shown = [(int(row.get_attribute("data-index") or 0), row) for row in self.rows.all()]
        return [row.locator(".name").text_content() or "" for _, row in sorted(shown, key=lambda pair: pair[0])]

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def expect_problem(self, text: str) -> None:
        """Take one problem off the list: one that the test has caused."""
        found = [problem for problem in self.problems if text in problem]
        assert found, self.problems
        self.problems.remove(found[0])

    def check(self) -> None:
        """Fail if a script of a name has run, or if anything has gone wrong in the page."""
        assert self.ask("() => typeof hacked") == "undefined"
        assert self.problems == []

    def ask(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of a module: while it is open, no other test of the process could use asyncio."""
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def small_library(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The library of `make_library`, for all tests of a process: each changes stems of its own."""
    place = Workplace(tmp_path_factory.mktemp("page"))
    place.input.mkdir()
    make_library(place)
    return place


@pytest.fixture(scope="session")
def small_address(small_library: Workplace) -> Iterator[str]:
    """The address of the small library's page."""
    with serving(small_library.database, small_library.folder) as address:
        yield address


@contextlib.contextmanager
def visiting(browser: Browser, address: str, **options: Any) -> Iterator[Visit]:
    """Open a fresh window."""
    context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
    try:
        context.set_default_timeout(PATIENCE_MS)
        yield Visit(context.new_page(), address)
    finally:
        context.close()


@pytest.fixture(scope="module")
def window(chromium: Browser, small_address: str) -> Iterator[Visit]:
    """A window for the small library: one for a module, since a fresh one fetches all files anew."""
    with visiting(chromium, small_address) as opened:
        opened.listen()
        # plotly is 4.8 MB, which a browser reads again for each page; test_browser_map.py has the real map.
        no_map = {"state": "none", "done": 0, "total": 1, "activity": "", "rows": 0, "missing": 0, "error": None}
        opened.page.route("**/api/map", lambda route: route.fulfill(json=no_map))
        yield opened


@pytest.fixture
def visit(window: Visit) -> Iterator[Visit]:
    """The page of the small library, just opened on a wide screen; at its end, nothing may have gone wrong in it."""
    window.page.set_viewport_size(WIDE)
    window.problems.clear()
    window.go()
    yield window
    window.check()
