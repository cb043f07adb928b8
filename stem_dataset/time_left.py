"""Estimate how long a run still takes, at the rates that it has measured.

What is left is counted in seconds of audio to decode and in windows to embed. Workers decode while the model embeds, so
the slower of the two decides.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from stem_dataset.audio.windowing import window_starts
from stem_dataset.config import Config
from stem_dataset.datatypes import SAMPLE_RATE_HZ, FoundFile
from stem_dataset.resources import usable_workers

# Bytes of a second of audio, until the run has decoded files with the suffix.
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
SECONDS_PER_FILE = 0.03
SECONDS_PER_AUDIO_S = 0.012
# What a window of ten seconds costs, until a batch is embedded.
SECONDS_PER_WINDOW = 0.11

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
        # On a cluster, it is measured how many work at once.
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
        self.rate = Rate(remembered=200)
        self.busy_s = 0.0
        self.begun_s: float | None = None
        # When the files that are being decoded were begun: whenever another one was done.
        self.begins_s = deque([clock()], maxlen=self.workers)

    def _count(self, path: str, size_bytes: int, files: int) -> None:
        # Four groups for each doubling of the size.
        group = self.groups[_suffix_of(path), round(4 * math.log2(max(size_bytes, 1)))]
        group.files += files
        group.size_bytes += files * size_bytes

    def decode(self, path: str, size_bytes: int, duration_s: float, seconds: float) -> None:
        """Note that a worker decoded a file in `seconds`."""
        self.leave_out(path, size_bytes)
        suffix = self.suffixes[_suffix_of(path)]
        suffix.files += 1
        suffix.size_bytes += size_bytes
        suffix.duration_s += duration_s
        self.rate.add(seconds, _predicted_s(1, duration_s))
        self.busy_s += seconds
        if self.begun_s is None:
            self.begun_s = self.clock() - seconds
        # The last file of all is begun while as many are left as there are workers.
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
        now_s = self.clock()
        if self.workers is not None and len(self.sizes) <= self.workers:
            # All that are left are being decoded, the last of them since the shortest time.
            begun = zip(reversed(self.sizes.items()), reversed(self.begins_s), strict=False)
            return max((self._rest_s(self._file_s(*file), now_s - begun_s) for file, begun_s in begun), default=0.0)
        audio_s = sum(
            group.size_bytes / self.suffixes[suffix].bytes_per_s for (suffix, _), group in self.groups.items()
        )
        workers = self.workers or max(1.0, self.busy_s / max(now_s - (self.begun_s or now_s), 0.1))
        work_s = self.rate.factor * _predicted_s(len(self.sizes), audio_s) / workers
        return self._rest_s(work_s, now_s - self.begins_s[-1])

    def _file_s(self, path: str, size_bytes: int) -> float:
        return self.rate.factor * _predicted_s(1, size_bytes / self.suffixes[_suffix_of(path)].bytes_per_s)

    def _rest_s(self, work_s: float, elapsed_s: float) -> float:
        """Return what is left of `work_s`; never nothing, as long as it is not done."""
        return max(work_s - elapsed_s, 0.1 * work_s)

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

    def collect(self, windows: int) -> None:
        """See `Upcoming`."""
        self.rows_read += 1
        self.windows_read += windows


class TimeLeft:
    """How long the run still takes, from what is `upcoming` and from what the embedder has."""

    def __init__(self, upcoming: Upcoming, batch_windows: int, clock: Clock = time.monotonic) -> None:
        self.upcoming = upcoming
        self.batch_windows = batch_windows
        self.clock = clock
        self.collected = 0  # windows for the next batch
        self.embedding = 0  # windows that are being embedded
        self.begun_s = 0.0
        self.rate = Rate(remembered=6)

    def collect(self, windows: int) -> None:
        """Note that a file or row has reached the embedder."""
        self.upcoming.collect(windows)
        self.collected += windows

    def begin_batch(self) -> None:
        """Note that the collected windows are being embedded."""
        self.embedding, self.collected, self.begun_s = self.collected, 0, self.clock()

    def end_batch(self) -> None:
        """Note that they are embedded."""
        self.rate.add(self.clock() - self.begun_s, self.embedding * SECONDS_PER_WINDOW)
        self.embedding = 0

    def seconds(self) -> float | None:
        """Return the estimate; None until the first file is decoded."""
        if not self.upcoming.has_rate():
            return None
        window_s = SECONDS_PER_WINDOW * self.rate.factor
        elapsed_s = self.clock() - self.begun_s if self.embedding else 0.0
        decode_s, expected = self.upcoming.decode_s(), self.upcoming.windows()
        waiting = self.collected + expected
        embed_s = waiting * window_s
        if self.embedding:
            if not self.rate.predicted_s:
                # The first batch may take longer than the start value says.
                window_s = max(window_s, elapsed_s / self.embedding)
            embed_s = waiting * window_s + max(self.embedding * window_s - elapsed_s, 0.0)
        elif expected:
            # The embedder is idle until the batch is full.
            embed_s += decode_s * min(max(self.batch_windows - self.collected, 0) / expected, 1.0)
        # The last batch begins when everything is decoded.
        last_batch = (waiting - 1) % self.batch_windows + 1 if waiting else 0
        return max(embed_s, decode_s + last_batch * window_s)


def _suffix_of(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _predicted_s(files: int, audio_s: float) -> float:
    return files * SECONDS_PER_FILE + audio_s * SECONDS_PER_AUDIO_S
