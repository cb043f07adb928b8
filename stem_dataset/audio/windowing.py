"""The windows of ten seconds that CLAP sees of a file, in int16 steps.

A module of its own, because workers cut windows and CLAP reads them, and neither is to load the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stem_dataset.audio.wav import StoredAudio
from stem_dataset.datatypes import SAMPLE_RATE_HZ, Float32, Int16

WINDOW_SAMPLES = 10 * SAMPLE_RATE_HZ  # 480,000: CLAP sees exactly ten seconds

WINDOW_STEPS = 32_767  # CLAP quantises to int16 itself; handing it those steps changes nothing


def window_starts(length: int, max_windows: int) -> list[int]:
    """Return where CLAP's windows of a file of `length` samples begin: evenly spread, from the samples' count alone.

    Up to 480,000 samples: one window, handed over at its own length. Longer: n = min(max_windows, ceil(length /
    480000)) windows of exactly 480,000, window i at i * (length - 480000) // (n - 1).
    """
    count = max(1, min(max_windows, math.ceil(length / WINDOW_SAMPLES)))
    return [i * (length - WINDOW_SAMPLES) // max(1, count - 1) for i in range(count)]


def window_rule(max_windows: int) -> str:
    """Return the name of `window_starts`' rule, under which windows of one file are the same."""
    return f"{WINDOW_SAMPLES // SAMPLE_RATE_HZ}s-max{max_windows}"


def cut_windows(audio: StoredAudio, max_windows: int) -> list[Int16]:
    """Return CLAP's windows in int16 steps of 1/32767, quantised as laion_clap does it: by truncation."""
    return [
        (audio.samples(start, min(start + WINDOW_SAMPLES, audio.length)) * np.float32(WINDOW_STEPS)).astype(np.int16)
        for start in window_starts(audio.length, max_windows)
    ]


class Waveforms(Sequence[Float32]):
    """Windows as laion_clap takes them, each made when it is asked for: all at once take twice the memory they have."""

    def __init__(self, windows: Sequence[Int16]) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Any) -> Any:
        """Return a waveform, or for a slice `Waveforms`."""
        return Waveforms(self.windows[index]) if isinstance(index, slice) else waveform_of(self.windows[index])


def waveform_of(window: Int16) -> Float32:
    """Return a window in [-1, 1], as laion_clap takes it."""
    return window.astype(np.float32) / np.float32(WINDOW_STEPS)
