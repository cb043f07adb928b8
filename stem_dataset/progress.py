"""Show the progress bar, and check for Ctrl-C during each wait."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import NoReturn

from tqdm import tqdm

from stem_dataset.datatypes import T
from stem_dataset.signals import TICK_S, StopSignals


class Progress:
    """The progress bar of a run; without a terminal it shows nothing.

    It also shows nothing if `is_wanted` is false.
    """

    def __init__(self, is_wanted: bool, signals: StopSignals) -> None:
        self.is_wanted = is_wanted
        self.signals = signals
        self.decoded = 0
        self._bar: tqdm[NoReturn] | None = None

    @contextlib.contextmanager
    def over(self, files: int) -> Iterator[None]:
        """Show a bar for this many files while the `with` block runs."""
        disable = None if self.is_wanted else True  # None disables it without a terminal
        bar: tqdm[NoReturn]
        try:
            with tqdm(
                total=files, unit="file", dynamic_ncols=True, smoothing=0, disable=disable, file=sys.stderr
            ) as bar:
                self._bar = bar
                yield
        finally:
            self._bar = None

    def say(self, activity: str) -> None:
        """Show `activity` in front of the bar."""
        if self._bar is not None:
            self._bar.set_description_str(activity)

    def advance(self, files: int = 1) -> None:
        """Move the bar on by this many files, which have their outcome."""
        if self._bar is not None:
            self._bar.update(files)

    def restart(self, files: int) -> None:
        """Start the bar again at zero, with another total."""
        if self._bar is not None:
            self._bar.reset(files)

    def extend(self, files: int) -> None:
        """Add this many files to the bar's total."""
        if self._bar is not None and self._bar.total is not None:
            self._bar.total += files

    def tick(self) -> None:
        """Raise `Interrupted` after Ctrl-C; otherwise redraw the bar and its clock."""
        self.signals.check()
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self.decoded} decoded", refresh=False)
            # If the terminal is closed, the batch must not be lost.
            with contextlib.suppress(OSError):
                self._bar.refresh()

    def wait_for(self, future: Future[T]) -> T:
        """Wait for the result of `future`, calling `tick` meanwhile, and return it."""
        while not wait([future], TICK_S).done:
            self.tick()
        return future.result()
