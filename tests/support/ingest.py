"""What the tests of audio share."""

from __future__ import annotations

import functools
import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pytest

import prepare_dataset_sql as product
from audio_files import encode, noise
from prepare_dataset_sql import DatasetPreparer
from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.datatypes import FoundFile, ProcessedFile, SourceFormat
from workplace import Workplace

Float32 = npt.NDArray[np.float32]


Steps = npt.NDArray[np.int64]


Decode = Callable[..., "Decoded"]


RATE_HZ = 44_100


FULL_SCALE = 2**23  # steps of 24 bit


WINDOW = 480_000


SIX_HOURS_S = 21_600.0


@dataclass
class Decoded:
    """What `standardise` made of a file."""

    source: SourceFormat
    samples: Float32
    peak: float

    @property
    def steps(self) -> Steps:
        """The samples as whole numbers of 24 bit."""
        return np.asarray(self.samples.astype(np.float64) * FULL_SCALE, np.int64)


@functools.cache
def three_seconds(container: str, subtype: str | None = None) -> bytes:
    rate_hz = {"OPUS": 48_000, "GSM610": 8_000}.get(subtype or "", RATE_HZ)
    return encode(noise(3 * rate_hz), rate_hz, container, subtype)


def process(workplace: Workplace, path: Path) -> ProcessedFile | None:
    """Run `_process_file` here on a file in the workplace's input."""
    status = path.stat()
    run_context = DatasetPreparer(workplace.config(), show_progress=False)._run_context
    return product._process_file(FoundFile(str(path), status.st_size, status.st_mtime_ns), run_context)


def ingest(workplace: Workplace, content: bytes, name: str) -> ProcessedFile:
    """Run `_process_file` here on a file that must not be quarantined."""
    path = workplace.input / name
    path.write_bytes(content)
    processed = process(workplace, path)
    assert processed is not None, workplace.quarantined()
    return processed


FIVE_FORMATS = ("wav", "flac", "mp3", "ogg", "aiff")


TAILS = {
    "ID3v1": b"TAG" + b"kick".ljust(125, b"\0"),
    "APEv2": b"APETAGEX" + struct.pack("<IIII", 2_000, 32, 0, 1 << 31) + bytes(8),
    "two bytes": b"\1\2",
    "zeros": bytes(5_000),
    "noise": np.random.default_rng(5).bytes(9_000),
    "frame headers": b"\xff\xf8" * 50,
}


def all_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def clap_quantises(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Return what laion_clap makes of a waveform first (float32_to_int16 in training/data.py)."""
    return (np.clip(waveform, -1.0, 1.0) * 32767.0).astype(np.int16)


def slice_starts(length: int, max_windows: int) -> list[int]:
    """Return the starts by the rule's words, in exact fractions."""
    count = min(max_windows, math.ceil(Fraction(length, WINDOW)))
    if count == 1:
        return [0]
    return [math.floor(Fraction(i, count - 1) * (length - WINDOW)) for i in range(count)]


@pytest.fixture(scope="module")
def decode(tmp_path_factory: pytest.TempPathFactory) -> Decode:
    """Standardise a file, given as bytes or as an open file."""
    folder = tmp_path_factory.mktemp("scratch")

    def decode_in_folder(content: bytes | IO[bytes], max_duration_s: float = SIX_HOURS_S) -> Decoded:
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        with StandardisedAudio(folder) as audio:
            source = standardise(file, audio, max_duration_s)
            return Decoded(source, audio.samples(), audio.peak)

    return decode_in_folder
