"""The estimate of the time left, on runs that are simulated with a clock of their own."""

from __future__ import annotations

import functools
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

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


STEP_S = 0.05
FILES_IN_FLIGHT = 2


@dataclass
class Machine:
    """A run on a machine of two cores, with two workers, that notes what is estimated each second.

    file_s and audio_s are what a worker computes for a file and for a second of its audio. window_s is what a GPU needs
    for a window, or what both cores compute for it.
    """

    files: list[TrueFile]
    file_s: float
    audio_s: float
    window_s: float
    is_gpu: bool
    now_s: float = 0.0
    cpu_s: float = 0.0
    estimates: list[tuple[float, float | None]] = field(default_factory=list)

    def run(self) -> None:
        self.waiting, self.results = deque(self.files), deque[tuple[TrueFile, float, float]]()
        self.working: list[list[Any]] = []  # file, what is left to compute, when it was begun
        self.embedding_s, self.collected, self.pending = 0.0, 0, 0
        upcoming = FilesToDecode([file.found for file in self.files], Config(workers=2), lambda: self.now_s)
        self.time_left = TimeLeft(upcoming, BATCH_WINDOWS, lambda: self.now_s, lambda: self.cpu_s)
        self.time_left.shares_cores = not self.is_gpu
        while self.waiting or self.working or self.results or self.collected or self.embedding_s > 0:
            self.give_work()
            self.take_results(upcoming)
            self.compute()
            if len(self.estimates) < self.now_s:
                self.estimates.append((self.now_s, self.time_left.seconds()))

    def give_work(self) -> None:
        while self.waiting and len(self.working) < 2 and len(self.working) + len(self.results) < 2 * FILES_IN_FLIGHT:
            file = self.waiting.popleft()
            self.working.append([file, self.file_s + self.audio_s * file.duration_s, self.now_s])

    def take_results(self, upcoming: FilesToDecode) -> None:
        """Do what the parent does; it waits where a full batch meets one that is being embedded."""
        while self.results:
            file, seconds, cpu_s = self.results[0]
            if self.collected + file.windows > BATCH_WINDOWS and not self.start_batch():
                return
            self.results.popleft()
            upcoming.decode(file.found, file.duration_s, seconds, cpu_s)
            self.time_left.collect(file.windows)
            self.collected += file.windows
        if not self.waiting and not self.working and self.collected:
            self.start_batch()

    def start_batch(self) -> bool:
        if self.embedding_s > 0:
            return False
        self.time_left.begin_batch()
        self.embedding_s, self.collected = self.collected * self.window_s, 0
        return True

    def compute(self) -> None:
        """Let a step of time pass; the threads share the two cores."""
        is_embedding = self.embedding_s > 0
        threads = len(self.working) + (2 if is_embedding and not self.is_gpu else 0)
        share_s = STEP_S * min(1.0, 2 / max(threads, 1))
        self.now_s += STEP_S
        for work in self.working:
            work[1] -= share_s
        for file, left_s, begun_s in [work for work in self.working if work[1] <= 0]:
            self.working.remove([file, left_s, begun_s])
            self.results.append((file, self.now_s - begun_s, self.file_s + self.audio_s * file.duration_s))
        if is_embedding:
            self.embedding_s -= STEP_S if self.is_gpu else 2 * share_s
            self.cpu_s += 0.0 if self.is_gpu else 2 * share_s
            if self.embedding_s <= 0:
                self.time_left.end_batch()


# What a file, a second of its audio and a window take, in seconds, and whether there is a GPU.
MACHINES = {
    "a slow GPU": (0.03, 0.01, 0.3, True),
    "a fast GPU": (0.2, 0.08, 0.004, True),
    "a GPU as fast as decoding": (0.1, 0.04, 0.15, True),
    "a CPU": (0.01, 0.012, 0.19, False),
    "a slow CPU": (0.05, 0.05, 0.6, False),
    "a CPU for which decoding is hard": (0.05, 0.05, 0.1, False),
}


@functools.cache
def run_of(machine: str, order: str) -> Machine:
    run = Machine(library(order), *MACHINES[machine])
    run.run()
    return run


@pytest.mark.parametrize("order", ["shuffled", "kind after kind"])
@pytest.mark.parametrize("machine", MACHINES)
def test_from_a_quarter_on_the_estimate_is_within_a_quarter_of_the_truth(machine: str, order: str) -> None:
    run = run_of(machine, order)
    # At the very end, two hundredths of the run are allowed: nobody knows how long the last file is.
    allowed_s = 0.02 * run.now_s
    checked = [(at_s, left_s, run.now_s - at_s) for at_s, left_s in run.estimates if at_s >= run.now_s / 4]
    wrong = [
        f"at {at_s:.0f} s of {run.now_s:.0f}: {left_s:.1f} s instead of {true_s:.1f}"
        for at_s, left_s, true_s in checked
        if left_s is not None and abs(left_s - true_s) > max(true_s / 4, allowed_s)
    ]
    assert len(checked) > 20
    assert wrong == []


@pytest.mark.parametrize("machine", MACHINES)
def test_the_estimate_does_not_grow_by_more_than_a_tenth_from_one_second_to_the_next(machine: str) -> None:
    run = run_of(machine, "shuffled")
    left_s = [left_s for at_s, left_s in run.estimates if left_s is not None and at_s >= run.now_s / 4]
    growth_s = max(later - earlier for earlier, later in itertools.pairwise(left_s))
    assert growth_s <= 0.1 * run.now_s


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
