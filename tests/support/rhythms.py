"""What the tests of metadata share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.config import Config, load_config
from stem_dataset.datatypes import Description, Measurements, NameFacts, SourceFormat
from stem_dataset.music.describe import describe, features_of_audio
from stem_dataset.music.features import analyse
from stem_dataset.music.filenames import read_name
from workplace import REPOSITORY

RATE_HZ = 48_000


ROOT = "/library"


ORDINARY = SourceFormat(44_100, 1, 44_100, truncated=False)


@cache
def config() -> Config:
    return load_config(REPOSITORY / "config.yaml", {})


def read(path: str) -> NameFacts:
    """Return what the names in a path relative to the input say."""
    return read_name(f"{ROOT}/{path}", ROOT, config().categories)


def measured(samples: npt.ArrayLike, folder: Path) -> Measurements:
    with StandardisedAudio(folder) as audio:
        audio.append(np.asarray(samples, np.float32))
        audio.finish()
        return analyse(audio)


def described(samples: npt.ArrayLike, folder: Path, path: str = "0001.wav", **changes: Any) -> Description:
    heard = measured(samples, folder)
    return describe(
        read(path), features_of_audio(heard, ORDINARY, dataclasses.replace(config(), **changes)), heard.duration_s
    )


def seconds_in(duration_s: float) -> npt.NDArray[np.float64]:
    return np.arange(round(duration_s * RATE_HZ)) / RATE_HZ


def noise(duration_s: float, seed: int = 0) -> npt.NDArray[np.float64]:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(duration_s * RATE_HZ))


def hits(times_s: Iterable[float], duration_s: float) -> npt.NDArray[np.float64]:
    """Return a thud of 60 Hz with a click at each time."""
    out = np.zeros(round(duration_s * RATE_HZ))
    t = seconds_in(0.15)
    hit = np.exp(-t / 0.04) * np.sin(2 * np.pi * 60 * t) + np.exp(-t / 0.004) * noise(0.15)
    for time_s in times_s:
        start = round(time_s * RATE_HZ)
        out[start : start + len(hit)] += 0.5 * hit[: len(out) - start]
    return out


def beats(bpm: float, duration_s: float) -> npt.NDArray[np.float64]:
    return hits(np.arange(0, duration_s - 0.01, 60 / bpm), duration_s)


def note(midi: float, duration_s: float) -> npt.NDArray[np.float64]:
    """Return a plucked tone of eight harmonics."""
    t = seconds_in(duration_s)
    hz = 440 * 2 ** ((midi - 69) / 12)
    tone = sum(np.sin(2 * np.pi * n * hz * t) / n for n in range(1, 9))
    return np.asarray(0.1 * tone * np.exp(-t / 1.5))


def chords(*triads: tuple[int, ...], each_s: float = 1.0) -> npt.NDArray[np.float64]:
    return np.concatenate([np.sum([note(midi, each_s) for midi in triad], axis=0) for triad in triads])


def is_octave_of(true_bpm: float | None, bpm: float | None) -> bool:
    """Return whether a tempo is within 2 % of the true one, its half or its double."""
    if bpm is None or true_bpm is None:
        return False
    return any(abs(bpm / (true_bpm * octave) - 1) <= 0.02 for octave in (0.5, 1, 2))


C_MAJOR = ((60, 64, 67), (65, 69, 72), (67, 71, 74), (60, 64, 67))  # I, IV, V, I
