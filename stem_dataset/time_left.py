"""Estimate how long a run still takes, at the rates that it has measured.

What is left is counted in seconds of audio to decode and in windows to embed.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from stem_dataset.audio.windowing import window_starts
from stem_dataset.config import Config
from stem_dataset.datatypes import SAMPLE_RATE_HZ, FoundFile
from stem_dataset.resources import usable_workers

# Bytes per second of audio, until the run has decoded a file with that suffix.
START_BYTES_PER_S = {
    **dict.fromkeys(".flac .ape .wv .tta".split(), 90_000.0),
    **dict.fromkeys(".mp3 .mp2 .wma .ac3 .eac3".split(), 28_000.0),
    **dict.fromkeys(".ogg .oga .opus .spx .m4a .m4b .m4r .mp4 .aac .mpc .mka .webm .3gp".split(), 20_000.0),
}
# WAV, AIFF and the like.
START_PCM_BYTES_PER_S = 200_000.0
# The start value counts as much as this many files.
START_FILES = 2.0

# What a file and a second of audio cost a worker. Once a file is decoded, only the proportion of the two matters.
SECONDS_PER_FILE = 0.01
SECONDS_PER_AUDIO_S = 0.0115
# What a window of ten seconds costs, until a batch is embedded: the time, and on a CPU the work of all its cores.
SECONDS_PER_WINDOW = 0.11
CPU_S_PER_WINDOW = 0.15
# How far back the speed of the machine is measured, in seconds.
SPEED_MARKS = 90
# Old measurements fade: the newest files, or batches, of this number outweigh all earlier ones.
FILES_REMEMBERED = 200.0
BATCHES_REMEMBERED = 6.0

Clock = Callable[[], float]


@dataclass(slots=True)
class Rate:
    """Measured over predicted seconds; old measurements fade.

    remembered: this many of the newest measurements count more than all before them
    """

    remembered: float
    measured_s: float = 0.0
    predicted_s: float = 0.0

    def add(self, measured_s: float, predicted_s: float) -> None:
        kept = 1 - 1 / self.remembered
        self.measured_s = kept * self.measured_s + measured_s
        self.predicted_s = kept * self.predicted_s + predicted_s

    @property
    def factor(self) -> float:
        """By how much a prediction must be multiplied."""
        return self.measured_s / self.predicted_s if self.predicted_s else 1.0


class DecodeCost:
    """What a file and a second of its audio cost, fitted to what the run has measured.

    Both costs are multiples of their start values. The fit is by least squares of the relative errors; old measurements
    fade. It begins with `START_FILES` files for which both are the same multiple.
    """

    def __init__(self) -> None:
        self.total = Rate(FILES_REMEMBERED)
        # Sums over the files: products of the two shares of the predicted cost with each other, and with the
        # measured cost as a multiple of the predicted one.
        self.file_file = self.file_audio = self.audio_audio = self.file_measured = self.audio_measured = 0.0

    def add(self, duration_s: float, measured_s: float) -> None:
        """Note the cost of a file."""
        predicted_s = SECONDS_PER_FILE + duration_s * SECONDS_PER_AUDIO_S
        self.total.add(measured_s, predicted_s)
        file, measured = SECONDS_PER_FILE / predicted_s, measured_s / predicted_s
        audio = 1 - file
        kept = 1 - 1 / FILES_REMEMBERED
        self.file_file = kept * self.file_file + file * file
        self.file_audio = kept * self.file_audio + file * audio
        self.audio_audio = kept * self.audio_audio + audio * audio
        self.file_measured = kept * self.file_measured + file * measured
        self.audio_measured = kept * self.audio_measured + audio * measured

    def of(self, files: int, audio_s: float) -> float:
        """Return the cost of this many files with this much audio together."""
        least = 0.1 * self.total.factor
        a, b, c = self.file_file + START_FILES, self.file_audio, self.audio_audio + START_FILES
        x = self.file_measured + START_FILES * self.total.factor
        y = self.audio_measured + START_FILES * self.total.factor
        determinant = a * c - b * b
        per_file = max((x * c - y * b) / determinant, least)
        per_audio_s = max((y * a - x * b) / determinant, least)
        return files * per_file * SECONDS_PER_FILE + audio_s * per_audio_s * SECONDS_PER_AUDIO_S


@dataclass(slots=True)
class Suffix:
    """What a run has learnt about the files with one suffix."""

    start_bytes_per_s: float
    files: int = 0
    size_bytes: int = 0
    duration_s: float = 0.0

    @property
    def bytes_per_s(self) -> float:
        start_bytes = START_FILES * self.size_bytes / self.files if self.files else 1.0
        return (self.size_bytes + start_bytes) / (self.duration_s + start_bytes / self.start_bytes_per_s)


@dataclass(slots=True)
class SameSize:
    """Files of one suffix whose sizes differ by less than a fifth."""

    files: int = 0
    size_bytes: int = 0


class Upcoming(Protocol):
    """What has not reached the embedder yet."""

    def has_rate(self) -> bool:
        """Return whether anything has been measured."""

    def windows(self) -> float:
        """Return the number of windows that are expected."""

    def decode_s(self) -> float:
        """Return the seconds until all is decoded."""

    def tail_s(self) -> float:
        """Return the seconds until the last files are decoded, or 0 while there are more of them than workers."""

    def cpu_s(self) -> float:
        """Return the CPU time that the files still need, added up over all workers."""

    def cpu_used_s(self) -> float:
        """Return the time that workers have computed so far."""

    def collect(self, windows: int) -> None:
        """Note that a file or row has reached the embedder with this many windows."""


class FilesToDecode:
    """The files that the workers have not decoded yet.

    Their durations are unknown, and follow from their sizes and from what the run has measured per suffix.
    """

    def __init__(self, files: Iterable[FoundFile], config: Config, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.max_windows = config.max_windows
        self.workers_embed = config.embed_on == "workers"
        # None on a cluster, where the number of busy workers is measured.
        self.workers = None if config.scheduler else usable_workers(config)
        # Their sizes, in the order in which they are decoded.
        self.sizes: dict[str, int] = {}
        self.groups: dict[tuple[str, int], SameSize] = defaultdict(SameSize)
        for found in files:
            self.sizes[found.path] = found.size_bytes
            self._count(found.path, found.size_bytes, 1)
        self.suffixes = {
            suffix: Suffix(START_BYTES_PER_S.get(suffix, START_PCM_BYTES_PER_S)) for suffix, _ in self.groups
        }
        self.cost, self.cpu_cost = DecodeCost(), DecodeCost()
        self.busy_s = self.counted_cpu_s = 0.0
        self.begun_s: float | None = None
        # When each file in progress was begun. A worker begins one when it has finished another.
        self.begins_s = deque([clock()], maxlen=self.workers)

    def _count(self, path: str, size_bytes: int, files: int) -> None:
        # Four groups for each doubling of the size.
        group = self.groups[_suffix_of(path), round(4 * math.log2(max(size_bytes, 1)))]
        group.files += files
        group.size_bytes += files * size_bytes

    def decode(self, found: FoundFile, duration_s: float, seconds: float, cpu_s: float) -> None:
        """Note that a worker decoded a file in `seconds`, of which it computed `cpu_s`."""
        self.leave_out(found.path, found.size_bytes)
        suffix = self.suffixes[_suffix_of(found.path)]
        suffix.files += 1
        suffix.size_bytes += found.size_bytes
        suffix.duration_s += duration_s
        self.cost.add(duration_s, seconds)
        self.cpu_cost.add(duration_s, cpu_s)
        self.busy_s += seconds
        self.counted_cpu_s += cpu_s
        if self.begun_s is None:
            self.begun_s = self.clock() - seconds
        # If at least as many files are left as there are workers, this worker now begins another one.
        if len(self.sizes) >= (self.workers or 1):
            self.begins_s.append(self.clock())

    def leave_out(self, path: str, size_bytes: int) -> None:
        """Note that a file is decoded already, or is not decoded at all."""
        if self.sizes.pop(path, None) is not None:
            self._count(path, size_bytes, -1)

    def has_rate(self) -> bool:
        """See `Upcoming`."""
        return self.begun_s is not None

    def windows(self) -> float:
        """See `Upcoming`."""
        if self.workers_embed:
            return 0.0
        return sum(
            group.files * self._windows_of(group.size_bytes / group.files / self.suffixes[suffix].bytes_per_s)
            for (suffix, _), group in self.groups.items()
            if group.files
        )

    def _windows_of(self, duration_s: float) -> int:
        return len(window_starts(round(duration_s * SAMPLE_RATE_HZ), self.max_windows))

    def decode_s(self) -> float:
        """See `Upcoming`."""
        if self.workers is not None and len(self.sizes) <= self.workers:
            return self._tail_s(self.cost)
        workers = self.workers or max(1.0, self.busy_s / max(self.clock() - (self.begun_s or 0.0), 0.1))
        return self._work_s(self.cost, share=1.0) / workers

    def tail_s(self) -> float:
        """See `Upcoming`."""
        is_tail = self.workers is not None and len(self.sizes) <= self.workers
        return self._tail_s(self.cpu_cost) if is_tail else 0.0

    def cpu_s(self) -> float:
        """See `Upcoming`."""
        return self._work_s(self.cpu_cost, self._cpu_share())

    def cpu_used_s(self) -> float:
        """See `Upcoming`."""
        return self.counted_cpu_s + self._done_in_flight_s(self.cpu_cost, self._cpu_share())

    def _cpu_share(self) -> float:
        return self.counted_cpu_s / self.busy_s if self.busy_s else 1.0

    def _work_s(self, cost: DecodeCost, share: float) -> float:
        """Return what all files cost together, without what is done of those that are being decoded.

        share: the part of the time in which a worker runs up this cost
        """
        groups = self.groups.items()
        audio_s = sum(group.size_bytes / self.suffixes[suffix].bytes_per_s for (suffix, _), group in groups)
        return cost.of(len(self.sizes), audio_s) - self._done_in_flight_s(cost, share)

    def _done_in_flight_s(self, cost: DecodeCost, share: float) -> float:
        return sum(min(share * elapsed_s, 0.9 * file_s) for file_s, elapsed_s in self._in_flight(cost))

    def _tail_s(self, cost: DecodeCost) -> float:
        """Return the seconds until the last files are decoded, all of which are begun."""
        return max((max(file_s - elapsed_s, 0.1 * file_s) for file_s, elapsed_s in self._in_flight(cost)), default=0.0)

    def _in_flight(self, cost: DecodeCost) -> Iterator[tuple[float, float]]:
        """Yield the cost of each file that is being decoded, and the seconds since it was begun."""
        now_s = self.clock()
        files = list(itertools.islice(self.sizes.items(), self.workers or 0))
        # The last of them was begun last.
        for (path, size_bytes), begun_s in zip(reversed(files), reversed(self.begins_s), strict=False):
            yield cost.of(1, size_bytes / self.suffixes[_suffix_of(path)].bytes_per_s), now_s - begun_s

    def collect(self, windows: int) -> None:
        """See `Upcoming`; `decode` has noted the file."""


class RowsToRead:
    """The rows whose audio is read again, which takes far less time than embedding it."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.rows_read = 0
        self.windows_read = 0

    def has_rate(self) -> bool:
        """See `Upcoming`."""
        return self.rows_read > 0

    def windows(self) -> float:
        """See `Upcoming`."""
        return max(self.rows - self.rows_read, 0) * self.windows_read / max(self.rows_read, 1)

    def decode_s(self) -> float:
        """See `Upcoming`."""
        return 0.0

    def tail_s(self) -> float:
        """See `Upcoming`."""
        return 0.0

    def cpu_s(self) -> float:
        """See `Upcoming`."""
        return 0.0

    def cpu_used_s(self) -> float:
        """See `Upcoming`."""
        return 0.0

    def collect(self, windows: int) -> None:
        """See `Upcoming`."""
        self.rows_read += 1
        self.windows_read += windows


class TimeLeft:
    """How long the run still takes, from what is `upcoming` and from what the embedder has.

    A GPU and the workers do not disturb each other, so the slower of the two decides. On a CPU they share the cores:
    then the time follows from what both still have to compute, and from how much the machine has let them compute.
    """

    def __init__(
        self,
        upcoming: Upcoming,
        batch_windows: int,
        clock: Clock = time.monotonic,
        cpu_clock: Clock = time.process_time,
    ) -> None:
        """`cpu_clock` gives the seconds that this process has computed, with all its threads."""
        self.upcoming = upcoming
        self.batch_windows = batch_windows
        self.clock = clock
        self.cpu_clock = cpu_clock
        self.shares_cores = False
        self.collected = 0  # windows for the next batch
        self.embedding = 0  # windows that are being embedded
        self.begun_s = self.begun_cpu_s = 0.0
        self.rate = Rate(BATCHES_REMEMBERED)
        self.cpu_rate = Rate(BATCHES_REMEMBERED)
        # The time, and how long the program had computed by then: a mark each second.
        self.marks: deque[tuple[float, float]] = deque(maxlen=SPEED_MARKS)

    def collect(self, windows: int) -> None:
        """Note that a file or row has reached the embedder."""
        self.upcoming.collect(windows)
        self.collected += windows

    def begin_batch(self) -> None:
        """Note that the collected windows are being embedded."""
        self.embedding, self.collected = self.collected, 0
        self.begun_s, self.begun_cpu_s = self.clock(), self.cpu_clock()

    def end_batch(self) -> None:
        """Note that they are embedded."""
        self.rate.add(self.clock() - self.begun_s, self.embedding * SECONDS_PER_WINDOW)
        self.cpu_rate.add(self.cpu_clock() - self.begun_cpu_s, self.embedding * CPU_S_PER_WINDOW)
        self.embedding = 0

    def seconds(self) -> float | None:
        """Return the estimate; None until the first file is decoded."""
        if not self.upcoming.has_rate():
            return None
        waiting = self.collected + self.upcoming.windows()
        # The last batch begins when everything is decoded.
        last_batch = (waiting - 1) % self.batch_windows + 1 if waiting > 0 else 0.0
        speed = self._cores_used()
        return self._shared_s(waiting, last_batch, speed) if self.shares_cores else self._apart_s(waiting, last_batch)

    def _cores_used(self) -> float:
        """Return how many cores' worth the program has computed lately."""
        now_s, used_s = self.clock(), self.cpu_clock() + self.upcoming.cpu_used_s()
        if not self.marks or now_s - self.marks[-1][0] >= 1:
            self.marks.append((now_s, used_s))
        then_s, then_used_s = self.marks[0]
        return max((used_s - then_used_s) / (now_s - then_s), 0.01) if now_s > then_s else 1.0

    def _shared_s(self, waiting: float, last_batch: float, cores: float) -> float:
        done_s = self.cpu_clock() - self.begun_cpu_s if self.embedding else 0.0
        window_s = self._window_s(CPU_S_PER_WINDOW, self.cpu_rate, done_s)
        work_s = waiting * window_s + max(self.embedding * window_s - done_s, 0.0) + self.upcoming.cpu_s()
        return max(work_s / cores, self.upcoming.tail_s() + last_batch * window_s / cores)

    def _apart_s(self, waiting: float, last_batch: float) -> float:
        elapsed_s = self.clock() - self.begun_s if self.embedding else 0.0
        window_s = self._window_s(SECONDS_PER_WINDOW, self.rate, elapsed_s)
        decode_s = self.upcoming.decode_s()
        embed_s = waiting * window_s + max(self.embedding * window_s - elapsed_s, 0.0)
        if not self.embedding and waiting > self.collected:
            # The embedder is idle until the batch is full.
            share = max(self.batch_windows - self.collected, 0) / (waiting - self.collected)
            embed_s += decode_s * min(share, 1.0)
        return max(embed_s, decode_s + last_batch * window_s)

    def _window_s(self, start_s: float, rate: Rate, batch_s: float) -> float:
        """Return what a window costs, measured over the batches so far, or over the unfinished first batch."""
        if rate.predicted_s or not self.embedding:
            return start_s * rate.factor
        return max(start_s, batch_s / self.embedding)


def _suffix_of(path: str) -> str:
    return os.path.splitext(path)[1].lower()
