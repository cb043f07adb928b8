"""Cut the ten-second windows of a file that CLAP embeds, as int16 steps.

A module of its own, because workers cut windows and CLAP reads them, and neither should import the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stem_dataset.audio.wav import StoredAudio
from stem_dataset.datatypes import SAMPLE_RATE_HZ, Float32, Int16

WINDOW_SAMPLES = 10 * SAMPLE_RATE_HZ  # 480,000, the length of CLAP's input

# CLAP itself quantises its input to int16 in these steps, so doing it earlier changes nothing.
WINDOW_STEPS = 32_767


def window_starts(length: int, max_windows: int) -> list[int]:
    """Return the starts of a file's windows, in samples.

    They depend only on its `length`. A file of up to 480,000 samples is one window of its own length. A longer file has
    n = min(max_windows, ceil(length / 480000)) windows of exactly 480,000 samples, evenly spread: window i starts at
    i * (length - 480000) // (n - 1).
    """
    count = max(1, min(max_windows, math.ceil(length / WINDOW_SAMPLES)))
    return [i * (length - WINDOW_SAMPLES) // max(1, count - 1) for i in range(count)]


def window_rule(max_windows: int) -> str:
    """Return the name of the rule in `window_starts`, as provenance stores it.

    Under the same rule, a file always has the same windows.
    """
    return f"{WINDOW_SAMPLES // SAMPLE_RATE_HZ}s-max{max_windows}"


def cut_windows(audio: StoredAudio, max_windows: int) -> list[Int16]:
    """Return the windows in steps of 1/32767, truncated to int16 as laion_clap does."""
    return [
        (audio.samples(start, min(start + WINDOW_SAMPLES, audio.length)) * np.float32(WINDOW_STEPS)).astype(np.int16)
        for start in window_starts(audio.length, max_windows)
    ]


class Waveforms(Sequence[Float32]):
    """Windows as float waveforms for laion_clap, each converted when it is needed.

    All of them at once would take twice the memory of the int16 windows.
    """

    def __init__(self, windows: Sequence[Int16]) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Any) -> Any:
        """Return one waveform, or `Waveforms` for a slice."""
        return Waveforms(self.windows[index]) if isinstance(index, slice) else waveform_of(self.windows[index])


def waveform_of(window: Int16) -> Float32:
    """Return a window as float32 in [-1, 1], which laion_clap takes."""
    return window.astype(np.float32) / np.float32(WINDOW_STEPS)
