"""A model for the tests in which the model is not the subject."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stem_dataset.audio.windowing import WINDOW_STEPS
from stem_dataset.clap.checkpoints import ModelCache
from stem_dataset.clap.engine import CpuEngine, TextVectors, reference_signal, reference_window


class FakeClap:
    """Vectors that depend on the samples, so that a swapped row shows; it remembers the size of each call but those
    with the reference signal."""

    engine = "fake/cpu"
    architecture = "HTSAT-tiny"
    versions: dict[str, str] = {"fake": "1.0"}  # noqa: RUF012  # never changed in place

    def __init__(self, seconds_a_call: float = 0) -> None:
        self.seconds_a_call = seconds_a_call
        self.call_sizes: list[int] = []

    def get_audio_embedding_from_data(self, x: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Return (N, 512) float32 of unit length."""
        if not is_reference(x):
            self.call_sizes.append(len(x))
            time.sleep(self.seconds_a_call)
        return np.stack([self.vector(window) for window in x])

    @property
    def reference(self) -> npt.NDArray[np.float32]:
        vector: npt.NDArray[np.float32] = self.get_audio_embedding_from_data([REFERENCE])[0]
        return vector

    def vector(self, window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the vector of one window; another model is one that does this otherwise."""
        return fake_vector(window)

    def get_text_embedding(self, x: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return (N, 512) float32 of unit length; for '440 Hz' the vector of such a tone of 0.05 s."""
        return np.stack([fake_vector(sound_of(text)) for text in x])


def sound_of(text: str) -> npt.NDArray[np.float32]:
    """Return what FakeClap takes a text for: '440 Hz' is a tone of `write_tone`, another its letters."""
    if text.endswith(" Hz"):
        phase = 2 * np.pi * float(text.removesuffix(" Hz")) * np.arange(2_400) / 48_000
        return np.asarray(0.5 * np.sin(phase), np.float32)
    return np.frombuffer(text.encode().ljust(512), np.uint8).astype(np.float32)


REFERENCE = reference_signal().astype(np.float32) / np.float32(WINDOW_STEPS)


def is_reference(windows: Sequence[npt.NDArray[np.float32]]) -> bool:
    """Whether a call is the check of the engine that each run begins with."""
    return len(windows) == 1 and np.array_equal(windows[0], REFERENCE)


def fake_vector(window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the first 512 magnitudes of the window's spectrum and its length, as a unit vector."""
    spectrum = np.abs(np.fft.rfft(window, 8192))[:512]
    spectrum[0] += len(window) / 480_000
    unit: npt.NDArray[np.float32] = (spectrum / np.linalg.norm(spectrum)).astype(np.float32)
    return unit


class BrokenClap(FakeClap):
    """A model that gives back NaN for chosen calls: `bad(call, row, window)`, not asked of the reference signal."""

    def __init__(self, bad: Any) -> None:
        super().__init__()
        self.bad = bad

    def get_audio_embedding_from_data(self, x: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        vectors = super().get_audio_embedding_from_data(x)
        for row, window in enumerate(x):
            if not is_reference(x) and self.bad(len(self.call_sizes), row, window):
                vectors[row] = np.nan
        return vectors


class OtherClap(FakeClap):
    """The same model on another engine, whose vectors differ from the first's by about `noise`."""

    def __init__(self, noise: float = 0.0, engine: str = "other/gpu", versions: dict[str, str] | None = None) -> None:
        super().__init__()
        self.noise = noise
        self.engine = engine
        self.versions = versions or FakeClap.versions

    def vector(self, window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        vector = super().vector(window).astype(np.float64)
        vector[0] += self.noise
        unit: npt.NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
        return unit


class Streams(CpuEngine):
    """The program's own engine over streams that a test gives: each makes a vector, (512,), of a full window."""

    engine = "openvino/cpu"

    def __init__(self, *streams: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]], precision: str = "f32"):
        super().__init__("HTSAT-tiny", precision, TextVectors(Path("none"), ModelCache(Path("none")), dict))
        self.streams = streams

    def first_wrong_part(self, stream: int) -> str:
        return "transformer"

    def get_text_embedding(self, x: Sequence[str]) -> npt.NDArray[np.float32]:
        return FakeClap().get_text_embedding(x)


def good_stream(window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the vector that `FakeClap` has of a full window."""
    return fake_vector(window)


def wrong_stream(window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a vector of unit length that is another's."""
    return fake_vector(window)[::-1]


class TurnsWrong:
    """A stream that computes another function from its `after`th window on."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.left -= 1
        return good_stream(window) if self.left >= 0 else wrong_stream(window)


STOCK_OF_STREAMS = good_stream(reference_window())
