"""Show how far a run is, as a bar, as lines or as JSON, and check for Ctrl-C during each wait."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import NoReturn, Protocol, TextIO

from tqdm import tqdm

from stem_dataset.config import Config
from stem_dataset.datatypes import FoundFile, T
from stem_dataset.logs import log
from stem_dataset.signals import TICK_S, StopSignals
from stem_dataset.time_left import Clock, FilesToDecode, RowsToRead, TimeLeft, Upcoming

# Without a terminal, a line comes this often, and at each quarter.
LINE_EVERY_S = 30.0
# The bar and its clock move at most this often.
REDRAW_S = 0.1
# A narrower terminal gets a shorter bar.
WIDE_COLUMNS = 100


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    done: files with an outcome
    left_s: the estimated time left; None if nothing has been measured yet
    """

    done: int
    total: int
    decoded: int
    activity: str
    elapsed_s: float
    left_s: float | None

    @property
    def files_per_s(self) -> float:
        """Files with an outcome, per second since the first one could begin."""
        return self.done / self.elapsed_s if self.elapsed_s else 0.0

    def as_line(self) -> str:
        """Return what a log shows."""
        left = "time left unknown" if self.left_s is None else f"about {clock_text(self.left_s)} left"
        percent = 100 * self.done // max(self.total, 1)
        rate = f"{self.files_per_s:.1f} files/s"
        return f"{self.done} of {self.total} files ({percent} %), {self.activity}, {rate}, {left}"

    def as_json(self) -> str:
        """Return what `--progress json` prints."""
        return json.dumps(
            {
                "done": self.done,
                "total": self.total,
                "decoded": self.decoded,
                "activity": self.activity,
                "elapsed_s": round(self.elapsed_s, 1),
                "files_per_s": round(self.files_per_s, 3),
                "left_s": None if self.left_s is None else round(self.left_s, 1),
            }
        )


def clock_text(seconds: float) -> str:
    """Return a duration as the bar shows it: 02:31, or 1:02:31."""
    return tqdm.format_interval(round(seconds))


class Display(Protocol):
    """Where a run's standing is shown."""

    def show(self, standing: Standing) -> None:
        """Show `standing`, or ignore it if nothing is due."""

    def close(self) -> None:
        """Leave what is shown as it is."""


class Bar:
    """A bar on a terminal of any width."""

    def __init__(self, total: int) -> None:
        self.columns_of = sys.stderr.fileno
        self.bar: tqdm[NoReturn] = tqdm(total=total, dynamic_ncols=True, file=sys.stderr, bar_format="{l_bar}{bar}|")

    def show(self, standing: Standing) -> None:
        """See `Display`."""
        self.bar.n, self.bar.total = standing.done, standing.total
        self.bar.bar_format = self.layout(standing, self._columns())
        # If the terminal is closed, the batch must not be lost.
        with contextlib.suppress(OSError):
            self.bar.refresh()

    @staticmethod
    def layout(standing: Standing, columns: int) -> str:
        """Return tqdm's `bar_format` for a terminal of this width."""
        left = "?" if standing.left_s is None else clock_text(standing.left_s)
        activity = standing.activity
        if columns < WIDE_COLUMNS:
            activity = activity.partition(" ")[0]
        else:
            activity = f"{standing.files_per_s:.1f} files/s, {standing.decoded} decoded, {activity}"
        return f"{{percentage:3.0f}}%|{{bar}}| {{n_fmt}}/{{total_fmt}} [{{elapsed}}<{left}] {activity}"

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self.columns_of()).columns
        except (OSError, ValueError):  # the terminal is closed
            return 0

    def close(self) -> None:
        """See `Display`."""
        self.bar.close()


class Lines:
    """A line every `LINE_EVERY_S`, and one when another quarter is done."""

    def __init__(self) -> None:
        self.shown_s = 0.0
        self.quarters = 0

    def show(self, standing: Standing) -> None:
        """See `Display`."""
        quarters = 4 * standing.done // max(standing.total, 1)
        if quarters > self.quarters or standing.elapsed_s - self.shown_s >= LINE_EVERY_S:
            self.quarters, self.shown_s = quarters, standing.elapsed_s
            self.write(standing)

    def write(self, standing: Standing) -> None:
        """Log the line, except at 100 %, where the account of the run follows."""
        if standing.done < standing.total:
            log.info("%s", standing.as_line())

    def close(self) -> None:
        """See `Display`."""


class JsonLines(Lines):
    """The same as JSON on stdout, and a line at the end."""

    def __init__(self, stdout: TextIO) -> None:
        super().__init__()
        self.stdout = stdout

    def write(self, standing: Standing) -> None:
        """Print the line; a closed pipe does not stop the run."""
        with contextlib.suppress(OSError, ValueError):
            print(standing.as_json(), file=self.stdout, flush=True)


class Nothing:
    """Shows nothing."""

    def show(self, standing: Standing) -> None:
        """See `Display`."""

    def close(self) -> None:
        """See `Display`."""


class Progress:
    """How far the run is: it counts files, and keeps the display and the estimate up to date.

    Its waits also check for Ctrl-C.
    """

    def __init__(self, config: Config, is_wanted: bool, signals: StopSignals, clock: Clock = time.monotonic) -> None:
        """Show nothing if `is_wanted` is false, unless the config asks for a bar, lines or JSON."""
        self.style = config.progress if is_wanted or config.progress != "auto" else "none"
        self.batch_windows = config.batch_windows
        self.signals = signals
        self.clock = clock
        # `prints_to_log` replaces `sys.stdout`, so the real one is kept here.
        self.stdout = sys.stdout
        self.done = self.total = self.decoded = 0
        self.activity = "starting"
        self.begun_s = self.shown_s = clock()
        self.display: Display = Nothing()
        self.shares_cores = False
        self._start(RowsToRead(0))

    def _start(self, upcoming: Upcoming) -> None:
        self.upcoming = upcoming
        self.time_left = TimeLeft(upcoming, self.batch_windows, self.clock)
        self.time_left.shares_cores = self.shares_cores

    @contextlib.contextmanager
    def over(self, files: int, upcoming: Upcoming | None = None) -> Iterator[None]:
        """Show the progress over this many files, or rows, while the `with` block runs.

        `upcoming` describes the files. Without it, the run works on rows that are already in the database.
        """
        self.begun_s = self.clock()
        self.done, self.total = 0, files
        self._start(upcoming or RowsToRead(files))
        self.display = self._new_display()
        try:
            yield
            self._show()
        finally:
            self.display.close()
            self.display = Nothing()

    def _new_display(self) -> Display:
        style = self.style
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "lines"
        if style == "bar":
            return Bar(self.total)
        if style == "json":
            return JsonLines(self.stdout)
        return Lines() if style == "lines" else Nothing()

    # -- what happens -------------------------------------------------------------------------------------------------

    def say(self, activity: str) -> None:
        """Show what the run is doing."""
        self.activity = activity
        self._show()

    def decode(self, found: FoundFile, duration_s: float, seconds: float, cpu_s: float) -> None:
        """Note that a worker has decoded a file in this many seconds, of which it computed `cpu_s`."""
        self.decoded += 1
        if isinstance(self.upcoming, FilesToDecode):
            self.upcoming.decode(found, duration_s, seconds, cpu_s)

    def settle(self, path: str, size_bytes: int) -> None:
        """Note that a file has its outcome, whether or not it was decoded."""
        if isinstance(self.upcoming, FilesToDecode):
            self.upcoming.leave_out(path, size_bytes)
        self.advance()

    def advance(self, files: int = 1) -> None:
        """Note that this many files, or rows, have their outcome."""
        self.done += files
        self._show_if_due()

    def collect(self, windows: int) -> None:
        """Note that the embedder has another file, or row, of this many windows."""
        self.time_left.collect(windows)

    def begin_batch(self, windows: int) -> None:
        """Note that all collected windows are being embedded."""
        self.time_left.begin_batch()
        self.say(f"embedding {windows} windows")

    def end_batch(self) -> None:
        """Note that the batch is embedded."""
        self.time_left.end_batch()
        self.say("decoding")

    def note_engine(self, engine: str) -> None:
        """Note what CLAP runs on; on a CPU, it shares the cores with the workers."""
        self.shares_cores = self.time_left.shares_cores = engine.endswith("/cpu")

    def restart(self, rows: int) -> None:
        """Begin again at zero, with another total."""
        self.done, self.total = 0, rows
        self._start(RowsToRead(rows))

    def extend(self, rows: int) -> None:
        """Add this many rows to the total."""
        self.total += rows
        if isinstance(self.upcoming, RowsToRead):
            self.upcoming.rows += rows

    # -- what a person sees -------------------------------------------------------------------------------------------

    def standing(self) -> Standing:
        """Return how far the run is now."""
        elapsed_s = self.clock() - self.begun_s
        left_s = self.time_left.seconds()
        return Standing(self.done, self.total, self.decoded, self.activity, elapsed_s, left_s)

    def _show(self) -> None:
        self.shown_s = self.clock()
        self.display.show(self.standing())

    def _show_if_due(self) -> None:
        # An estimate takes up to a millisecond, and there may be hundreds of files per second.
        if self.clock() - self.shown_s >= REDRAW_S:
            self._show()

    def tick(self) -> None:
        """Raise `Interrupted` after Ctrl-C; otherwise show how far the run is."""
        self.signals.check()
        self._show_if_due()

    def wait_for(self, future: Future[T]) -> T:
        """Wait for the result of `future`, calling `tick` meanwhile, and return it."""
        while not wait([future], TICK_S).done:
            self.tick()
        return future.result()
