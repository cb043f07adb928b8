"""Handle Ctrl-C, SIGTERM and a closed terminal.

They end a run, and child processes are protected from them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Self

from stem_dataset.errors import Interrupted

# How often the bar's clock moves and the program checks for Ctrl-C.
TICK_S = 0.5

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# The script repeats this text above its imports, for a Ctrl-C that comes before this module is imported.
INTERRUPTED_TEXT = "interrupted: what was committed stays; run again to go on"


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the stop signals in processes started inside (POSIX only).

    Ctrl-C and a closed terminal reach the whole process group. Python's fork server would print a traceback if it got
    one while it imports, and so would a worker before `start_worker` has run. The resource tracker ignores all but
    SIGHUP.
    """
    # On Windows a worker may print a traceback as it starts.
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    import multiprocessing.resource_tracker

    former = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        multiprocessing.resource_tracker.ensure_running()
        # Starting the tracker has unblocked two of them.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


class StopSignals:
    """Catch the stop signals inside the `with` block.

    The first signal sets `requested`, and the second ends the process at once. Blocks may be nested, the inner one with
    `outer`: a signal that reaches either of them stops both.
    """

    def __init__(self, outer: StopSignals | None = None) -> None:
        self.outer = outer
        self.requested = False
        self.former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers.
        if threading.current_thread() is threading.main_thread():
            numbers = set(STOP_SIGNALS)
            # Under nohup the run outlives its terminal.
            if "SIGHUP" in dir(signal) and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
                numbers.remove(signal.SIGHUP)
            self.former = {number: signal.signal(number, self._on_signal) for number in numbers}
        if self.outer is not None and self.outer.requested:
            self.requested = True
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Restore the former handlers; after a signal, turn any error into `Interrupted`.

        The signal may have ended a process that the run needed. If something else is wrong, the next run will find it.
        """
        for number, handler in self.former.items():
            signal.signal(number, handler)
        if self.requested and self.outer is not None:
            self.outer.requested = True
        if self.requested and isinstance(error, Exception) and not isinstance(error, Interrupted):
            raise Interrupted(INTERRUPTED_TEXT) from error

    def _on_signal(self, *_: object) -> None:
        if self.requested:
            # The workers watch their parent, and end with it.
            os._exit(Interrupted.exit_code)
        self.requested = True

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.requested:
            raise Interrupted(INTERRUPTED_TEXT)
