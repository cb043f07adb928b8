"""The bar on the terminal, and waiting while it moves. Each wait looks for Ctrl-C."""

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
    """The bar of a run. Without a terminal, or where none is wanted, it shows nothing."""

    def __init__(self, is_wanted: bool, signals: StopSignals) -> None:
        self.is_wanted = is_wanted
        self.signals = signals
        self.decoded = 0
        self._bar: tqdm[NoReturn] | None = None

    @contextlib.contextmanager
    def over(self, files: int) -> Iterator[None]:
        """Show a bar over `files` files while the block runs."""
        disable = None if self.is_wanted else True  # None: where stderr is no terminal
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
        """Show what is being done."""
        if self._bar is not None:
            self._bar.set_description_str(activity)

    def advance(self, files: int = 1) -> None:
        """Count files that have their outcome."""
        if self._bar is not None:
            self._bar.update(files)

    def restart(self, files: int) -> None:
        """Begin at zero again, over another number of files."""
        if self._bar is not None:
            self._bar.reset(files)

    def extend(self, files: int) -> None:
        """Go on to `files` more files than were announced."""
        if self._bar is not None and self._bar.total is not None:
            self._bar.total += files

    def tick(self) -> None:
        """Raise `Interrupted` after Ctrl-C, and move the bar's clock."""
        self.signals.check()
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self.decoded} decoded", refresh=False)
            with contextlib.suppress(OSError):  # a closed terminal is no reason to lose a batch
                self._bar.refresh()

    def wait_for(self, future: Future[T]) -> T:
        """Return the result of `future`; ticks until it is there."""
        while not wait([future], TICK_S).done:
            self.tick()
        return future.result()
