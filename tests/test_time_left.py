"""The estimate of the time left, on runs that are simulated with a clock of their own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from stem_dataset.config import Config
from stem_dataset.datatypes import FoundFile
from stem_dataset.time_left import FilesToDecode, RowsToRead, TimeLeft

BATCH_WINDOWS = 96


@dataclass(frozen=True)
class TrueFile:
    """A file as the run will find it: the estimate knows its path and size alone until it is decoded."""

    found: FoundFile
    duration_s: float

    @property
    def windows(self) -> int:
        return max(1, min(8, -int(-self.duration_s // 10)))


# What a second of audio takes in this library, which is not what the program starts with.
BYTES_PER_S = {
    ".wav": (88_200, 288_000),
    ".flac": (50_000, 160_000),
    ".mp3": (16_000, 40_000),
    ".ogg": (12_000, 24_000),
}
KINDS = {"one-shots": (0.65, 0.1, 2.0), "loops": (0.25, 2.0, 16.0), "pieces": (0.10, 20.0, 240.0)}


def library(order: str, count: int = 400) -> list[TrueFile]:
    """Return mixed files: kind after kind, or shuffled."""
    dice = random.Random(7)
    files = []
    for kind, (share, shortest_s, longest_s) in KINDS.items():
        for number in range(round(share * count)):
            suffix = dice.choice(list(BYTES_PER_S))
            duration_s = shortest_s * (longest_s / shortest_s) ** dice.random()
            size_bytes = int(duration_s * dice.uniform(*BYTES_PER_S[suffix])) + 100
            files.append(TrueFile(FoundFile(f"/{kind}/{number}{suffix}", size_bytes, 0), duration_s))
    if order == "shuffled":
        dice.shuffle(files)
    return files


@dataclass
class Machine:
    """A run on a machine that decodes and embeds at given rates, and what it estimates as it goes on.

    file_s and audio_s are what a worker needs for a file and for a second of its audio.
    """

    files: list[TrueFile]
    file_s: float
    audio_s: float
    window_s: float
    workers: int = 2
    now_s: float = 1_000.0
    estimates: list[tuple[float, float | None]] = field(default_factory=list)
    is_window_timed: bool = False
    # Once a batch is embedded: what was estimated before and after a time in which nothing happened.
    quiet: list[tuple[float | None, float | None]] = field(default_factory=list)

    def run(self) -> None:
        config = Config(workers=self.workers)
        self.upcoming = FilesToDecode([file.found for file in self.files], config, lambda: self.now_s)
        self.time_left = TimeLeft(self.upcoming, BATCH_WINDOWS, lambda: self.now_s)
        self.collected = 0
        self.batch_ends_s: float | None = None
        for file, ready_s, seconds in self.decoded():
            self.pass_time(ready_s + self.held_up_s)
            self.upcoming.decode(file.found.path, file.found.size_bytes, file.duration_s, seconds)
            if self.collected + file.windows > BATCH_WINDOWS:
                self.start_batch()
            self.time_left.collect(file.windows)
            self.collected += file.windows
        self.start_batch()
        self.finish_batch()

    held_up_s = 0.0

    def decoded(self) -> Iterator[tuple[TrueFile, float, float]]:
        """Yield each file, when it would be decoded if nothing held the workers up, and how long that takes."""
        free_s = [self.now_s] * self.workers
        results = []
        for file in self.files:
            seconds = self.file_s + file.duration_s * self.audio_s
            worker = free_s.index(min(free_s))
            free_s[worker] += seconds
            results.append((file, free_s[worker], seconds))
        yield from sorted(results, key=lambda result: result[1])

    def start_batch(self) -> None:
        waited_from_s = self.now_s
        self.finish_batch()
        self.held_up_s += self.now_s - waited_from_s
        self.batch_ends_s = self.now_s + self.collected * self.window_s
        self.collected = 0
        self.time_left.begin_batch()

    def finish_batch(self) -> None:
        if self.batch_ends_s is not None:
            self.pass_time(self.batch_ends_s)

    def pass_time(self, until_s: float) -> None:
        """Let the clock run, and note an estimate each second."""
        while self.now_s < until_s:
            before = self.time_left.seconds()
            next_s = until_s if self.batch_ends_s is None else min(until_s, self.batch_ends_s)
            self.now_s = min(self.now_s + 1, next_s)
            after = self.time_left.seconds()
            self.estimates.append((self.now_s, after))
            if self.is_window_timed:
                self.quiet.append((before, after))
            if self.now_s == self.batch_ends_s:
                self.batch_ends_s, self.is_window_timed = None, True
                self.time_left.end_batch()

    def errors(self) -> list[tuple[float, float, float]]:
        """Return the share of the run that was done, the true seconds left, and the error of the estimate."""
        begin_s, end_s = 1_000.0, self.now_s
        return [
            ((at_s - begin_s) / (end_s - begin_s), end_s - at_s, left_s - (end_s - at_s))
            for at_s, left_s in self.estimates
            if left_s is not None
        ]


# What a file, a second of its audio and a window take, in seconds.
MACHINES = {
    "the model is slow": (0.03, 0.01, 0.3),
    "decoding is slow": (0.2, 0.08, 0.004),
    "both are about as slow": (0.1, 0.04, 0.15),
}


@pytest.mark.parametrize("order", ["shuffled", "kind after kind"])
@pytest.mark.parametrize("machine", MACHINES)
def test_from_a_quarter_on_the_estimate_is_within_a_quarter_of_the_truth(machine: str, order: str) -> None:
    run = Machine(library(order), *MACHINES[machine])
    run.run()
    errors = [(true_s, error_s) for done, true_s, error_s in run.errors() if done >= 0.25]
    assert len(errors) > 20
    # At the very end, two hundredths of the run are allowed: nobody knows how long the last file is.
    allowed_s = 0.02 * (run.now_s - 1_000)
    wrong = [(true_s, error_s) for true_s, error_s in errors if abs(error_s) > max(true_s / 4, allowed_s)]
    assert wrong == []


@pytest.mark.parametrize("machine", MACHINES)
def test_between_two_events_the_estimate_counts_down(machine: str) -> None:
    run = Machine(library("shuffled"), *MACHINES[machine])
    run.run()
    estimates = [(before, after) for before, after in run.quiet if before is not None and after is not None]
    assert len(estimates) > 100
    assert [(before, after) for before, after in estimates if after > before] == []


def test_before_the_first_file_is_decoded_nothing_is_claimed() -> None:
    files = [file.found for file in library("shuffled")]
    assert TimeLeft(FilesToDecode(files, Config(workers=2)), BATCH_WINDOWS).seconds() is None


def test_the_time_of_rows_that_are_embedded_again_follows_from_their_windows() -> None:
    now_s = 0.0
    rows = RowsToRead(10)
    time_left = TimeLeft(rows, 4, lambda: now_s)
    assert time_left.seconds() is None
    for _ in range(4):
        time_left.collect(windows=1)
    time_left.begin_batch()
    now_s = 8.0
    time_left.end_batch()
    assert time_left.seconds() == pytest.approx(12.0)  # six rows of a window, two seconds for each
