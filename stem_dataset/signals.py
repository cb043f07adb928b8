"""Ctrl-C, SIGTERM and a closed terminal: when a run ends for them, and what child processes see of them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Self

from stem_dataset.errors import Interrupted

TICK_S = 0.5  # how often the bar's clock moves and Ctrl-C is looked at

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# The block above the imports says it in the same words.
INTERRUPTED_TEXT = "interrupted: what was committed stays; run again to go on"


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Let a process that is started within inherit a mask that holds stop signals back (POSIX only).

    Ctrl-C and a closed terminal reach the whole process group. Python's fork server would end with a traceback while it
    imports, and a worker likewise until `start_worker` has run; the resource tracker ignores all but SIGHUP.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows: there a worker may print a traceback as it starts
        yield
        return
    import multiprocessing.resource_tracker

    former = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        multiprocessing.resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # the tracker's start has unblocked two of them
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


class StopSignals:
    """Within it, the first Ctrl-C, SIGTERM or closed terminal sets `requested`, and the second ends at once.

    One may be entered within another, `outer`: a signal that came to either stops what both enclose.
    """

    def __init__(self, outer: StopSignals | None = None) -> None:
        self.outer = outer
        self.requested = False
        self.former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            numbers = set(STOP_SIGNALS)
            if "SIGHUP" in dir(signal) and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
                numbers.remove(signal.SIGHUP)  # nohup: the run is to outlive its terminal
            self.former = {number: signal.signal(number, self._on_signal) for number in numbers}
        if self.outer is not None and self.outer.requested:
            self.requested = True
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Give the former handlers back. Once a signal has come, any error that ends the run becomes `Interrupted`: the
        signal may have ended a process that the run needed, and what else is wrong will be found by the next run."""
        for number, handler in self.former.items():
            signal.signal(number, handler)
        if self.requested and self.outer is not None:
            self.outer.requested = True
        if self.requested and isinstance(error, Exception) and not isinstance(error, Interrupted):
            raise Interrupted(INTERRUPTED_TEXT) from error

    def _on_signal(self, *_: object) -> None:
        if self.requested:
            os._exit(Interrupted.exit_code)  # the workers follow: they watch their parent
        self.requested = True

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.requested:
            raise Interrupted(INTERRUPTED_TEXT)
