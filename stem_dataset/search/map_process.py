"""The map computed in a process of its own, while the page goes on answering.

numba holds the interpreter's lock while it compiles and in each of UMAP's epochs: in a thread, the page would stand
still. The process ends with the page, also if the page is killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NoReturn

from stem_dataset.errors import PrepareError, text_of_error
from stem_dataset.search.library import Library
from stem_dataset.search.sidecar import open_sidecar
from stem_dataset.search.sound_map import make_map

# Reports come at most this often.
REPORT_EVERY_S = 0.1
# A process that was told to stop looks for the word between two steps. While numba compiles, there is none for many
# seconds: after this time it gets a signal, and after as long again it is killed.
STOP_AFTER_S = 3.0
NICENESS = 10


@dataclass(frozen=True)
class Standing:
    """How far the computation is.

    activity: such as 'laying out'; done and total are the steps of this activity
    error: a text for the user; None unless the state is 'failed'
    """

    state: Literal["computing", "done", "stopped", "failed"] = "computing"
    activity: str = "starting"
    done: int = 0
    total: int = 1
    error: str | None = None


class MapComputation:
    """A process that makes the map of `database` and keeps it in `file`. It starts at once.

    When the state is 'done', `sound_map.find_map` has the map. The database may have changed meanwhile.
    """

    def __init__(self, database: Path, file: Path) -> None:
        # A fork would copy the threads' locks of the page.
        context = multiprocessing.get_context("spawn")
        self._reports, theirs = context.Pipe()
        self._process = context.Process(target=compute, args=(str(database), str(file), theirs), daemon=True)
        self._process.start()
        # Otherwise the pipe would stay open when the process ends.
        theirs.close()
        self._standing = Standing()
        self._is_stopped = False
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def standing(self) -> Standing:
        """How far it is now."""
        return self._standing

    def wait(self, timeout_s: float | None = None) -> Standing:
        """Wait until it has ended, or for this long."""
        self._watcher.join(timeout_s)
        return self._standing

    def stop(self) -> None:
        """End the computation, and return when it has ended. What was kept before stays."""
        self._is_stopped = True
        with contextlib.suppress(OSError):
            self._reports.send("stop")
        for harder in (self._process.terminate, self._process.kill):
            self._process.join(STOP_AFTER_S)
            if self._process.is_alive():
                harder()
        self._watcher.join()

    def _watch(self) -> None:
        """Take the reports until the process ends."""
        last = self._standing
        # Windows raises OSError where others raise EOFError.
        with contextlib.suppress(EOFError, OSError):
            while True:
                last = self._standing = self._reports.recv()
        self._process.join()
        if self._is_stopped and last.state != "done":
            self._standing = replace(last, state="stopped")
        elif last.state == "computing":
            text = f"the process that computes the map ended without a word (exit code {self._process.exitcode})"
            self._standing = replace(last, state="failed", error=f"{text}: memory may have run out")
        self._reports.close()


class _Stopped(BaseException):
    """The page asked to stop, or is gone. numba turns any `Exception` into one of its own."""


class _Reporter:
    """Sends how far the computation is, and looks for the word to stop."""

    def __init__(self, reports: Connection) -> None:
        self.reports = reports
        self.standing = Standing()
        self.sent_at = 0.0

    def __call__(self, activity: str, done: int, total: int) -> None:
        with _page_may_be_gone():
            if self.reports.poll():
                raise _Stopped
            is_due = time.monotonic() - self.sent_at >= REPORT_EVERY_S
            if is_due or activity != self.standing.activity:
                self.send(Standing(activity=activity, done=done, total=total))

    def send(self, standing: Standing) -> None:
        """Send `standing` at once."""
        self.standing = standing
        self.reports.send(standing)
        self.sent_at = time.monotonic()


@contextlib.contextmanager
def _page_may_be_gone() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise _Stopped from None


def compute(database: str, file: str, reports: Connection) -> None:
    """Make the map, in a process of its own. Whatever happens is reported."""
    # Ctrl-C in the terminal reaches all its processes. The page decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # On Windows, this signal ends the process, and the temporary folder stays.
    signal.signal(signal.SIGTERM, _stop_here)
    if hasattr(os, "nice"):  # Windows has none: there, the map takes its share
        os.nice(NICENESS)
    report = _Reporter(reports)
    with contextlib.suppress(_Stopped), own_numba_cache():
        try:
            with open_sidecar(
                Path(database), lambda done, total: report("reading the database", done, total)
            ) as sidecar:
                make_map(Library(sidecar), Path(file), report)
            end = Standing("done", "done", done=1, total=1)
        except Exception as error:
            text = str(error) if isinstance(error, PrepareError) else text_of_error(error)
            end = replace(report.standing, state="failed", error=text)
        with _page_may_be_gone():
            report.send(end)


def _stop_here(*_: object) -> NoReturn:
    raise _Stopped


@contextlib.contextmanager
def own_numba_cache() -> Iterator[None]:
    """Let numba keep what it compiles in a temporary folder, unless the user has given it one.

    When two processes fill one cache at the same time, numba stores a function under the types of another, and the next
    process to call it crashes.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["NUMBA_CACHE_DIR"]
