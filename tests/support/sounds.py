"""What the tests of analysis share."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from audio_files import encode
from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.config import load_config
from stem_dataset.datatypes import Measurements, SourceFormat
from stem_dataset.music.describe import quality_issues
from stem_dataset.music.features import analyse
from workplace import REPOSITORY

Float32 = npt.NDArray[np.float32]


Float64 = npt.NDArray[np.float64]


RATE_HZ = 48_000


SPECTRAL = ("spectral_centroid", "spectral_rolloff", "spectral_bandwidth")


FIVE = (*SPECTRAL, "rms", "zero_crossing_rate")


SECOND_S = np.arange(RATE_HZ) / RATE_HZ


CONFIG = load_config(REPOSITORY / "config.yaml", {})


def standardised(samples: npt.ArrayLike, folder: Path) -> StandardisedAudio:
    audio = StandardisedAudio(folder)
    audio.append(np.asarray(samples, np.float32))
    audio.finish()
    return audio


def analysed(samples: npt.ArrayLike, folder: Path) -> Measurements:
    with standardised(samples, folder) as audio:
        return analyse(audio)


def sine(hz: float, seconds: float = 1.0, amplitude: float = 0.5) -> Float64:
    return np.asarray(amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ))


def clicks(bpm: float, seconds: float) -> Float32:
    """Return a click at each beat: 10 ms of decaying noise."""
    loop = np.zeros(int(seconds * RATE_HZ), np.float32)
    click = np.random.default_rng(1).standard_normal(480) * np.exp(-np.arange(480) / 100)
    for beat in range(int(seconds * bpm / 60)):
        start = round(beat * 60 / bpm * RATE_HZ)
        loop[start : start + 480] = (0.3 * click).astype(np.float32)[: len(loop) - start]
    return loop


def read_sound(folder: Path, content: bytes) -> tuple[SourceFormat, Measurements]:
    """Return what is read and measured of a file."""
    with StandardisedAudio(folder) as audio:
        source = standardise(io.BytesIO(content), audio, CONFIG.max_duration_s)
        return source, analyse(audio)


def issues(folder: Path, content: bytes, **settings: float) -> list[str]:
    source, measured = read_sound(folder, content)
    return quality_issues(source, measured.features, dataclasses.replace(CONFIG, **settings))  # type: ignore[arg-type]


def wav(samples: npt.ArrayLike, subtype: str = "PCM_16") -> bytes:
    return encode(samples, RATE_HZ, "WAV", subtype)


def stereo(left: npt.ArrayLike, right: npt.ArrayLike) -> npt.NDArray[Any]:
    return np.stack([left, right], axis=1)


HARD_CLIPPED = np.clip(3 * sine(440), -1, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")
