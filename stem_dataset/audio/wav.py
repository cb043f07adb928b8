"""Write the standardised WAV block by block, and read it back."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import uuid
import wave
from pathlib import Path
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from stem_dataset.datatypes import SAMPLE_RATE_HZ, Float32
from stem_dataset.errors import blaming_the_program
from stem_dataset.files import put_in_place

SAMPLE_STEPS = 2**23  # 24-bit PCM
SAMPLE_BYTES = 3
WAV_HEADER_BYTES = 44  # what Python's `wave` module writes

# Up to this length (44 s, 8 MiB), the samples are also kept in memory. Longer audio is read back from disk.
KEPT_SAMPLES = 2**21


def wav_header(samples: int) -> bytes:
    """Return the header that a WAV of this many samples has, as Python's `wave` module writes it."""
    data_bytes = samples * SAMPLE_BYTES
    form = (16, 1, 1, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", WAV_HEADER_BYTES - 8 + data_bytes, b"WAVE", b"fmt ", *form, b"data", data_bytes
    )


class StoredAudio:
    """A WAV that `StandardisedAudio` has published, for reading.

    It is 48 kHz, mono and 24 bit, with a header of 44 bytes.
    """

    def __init__(self, file: IO[bytes], length: int) -> None:
        self.file = file
        self.length = length

    def samples(self, start: int = 0, stop: int | None = None) -> Float32:
        """Return the WAV's samples [start, stop) exactly, as float32 in [-1, 1)."""
        stop = self.length if stop is None else stop
        self.file.seek(WAV_HEADER_BYTES + start * SAMPLE_BYTES)
        return _unpacked(self.file.read((stop - start) * SAMPLE_BYTES))


class StandardisedAudio(StoredAudio):
    """Standardised samples (48 kHz, mono, 24 bit), stored in an unpublished WAV.

    The features, the windows and the WAV all come from these samples. They are on disk, so an hour needs no more memory
    than a minute. Write them with `append`, then `finish`; read them with `samples`. `publish` moves the WAV to its
    place. When the `with` block ends, a WAV that was not published is removed.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.scratch = folder / f"{os.getpid()}-{uuid.uuid4().hex}.wav"
        super().__init__(open(self.scratch, "x+b"), length=0)  # noqa: SIM115  # closed by __exit__ or publish
        self._begin()

    def _begin(self) -> None:
        self.length = 0
        # `finish` closes it. On a full disk, its OSError reaches the caller.
        self.wave = wave.open(self.file, "wb")  # noqa: SIM115
        self.wave.setparams((1, SAMPLE_BYTES, SAMPLE_RATE_HZ, 0, "NONE", "not compressed"))
        self.peak = 0.0
        # All samples, or none if there are more than `KEPT_SAMPLES`. `finish` joins them into one array.
        self.kept: list[Float32] = []
        self.hash = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # `close` writes the header, which may fail on a full disk and does not matter here.
        with contextlib.suppress(OSError):
            self.wave.close()
        self.file.close()
        self.scratch.unlink(missing_ok=True)

    @blaming_the_program()
    def restart(self) -> None:
        """Drop all samples, so that another decoder can start again."""
        self.wave.close()
        self.file.seek(0)
        self.file.truncate()
        self._begin()

    @blaming_the_program()
    def append(self, mono: Float32) -> None:
        """Round `mono`, shape (n,), to 24 bit, clipped at ±1, and add it."""
        scaled = mono * np.float32(SAMPLE_STEPS)
        np.rint(scaled, out=scaled)
        np.clip(scaled, np.float32(-SAMPLE_STEPS), np.float32(SAMPLE_STEPS - 1), out=scaled)
        pcm = _packed(scaled.astype("<i4"))
        self.wave.writeframesraw(pcm)
        self.hash.update(pcm)
        scaled /= np.float32(SAMPLE_STEPS)
        self.length += len(scaled)
        self.peak = max(self.peak, float(scaled.max(initial=0)), -float(scaled.min(initial=0)))
        self.kept.append(scaled)
        if self.length > KEPT_SAMPLES:
            self.kept.clear()

    @blaming_the_program()
    def finish(self) -> None:
        """Complete the WAV's header; `append` must not be called afterwards."""
        self.wave.close()
        self.file.flush()
        if self.kept:
            self.kept = [np.concatenate(self.kept)]

    def samples(self, start: int = 0, stop: int | None = None) -> Float32:
        """Return samples [start, stop); see `StoredAudio.samples`."""
        return self.kept[0][start:stop] if self.kept else super().samples(start, stop)

    def publish(self, path: Path) -> None:
        """Sync the WAV and rename it to `path`; it never appears in part."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file.close()
        put_in_place(self.scratch, path)


def _packed(steps: npt.NDArray[np.int32]) -> bytes:
    """Return the 24-bit PCM of `steps`, shape (n,)."""
    four_bytes = steps.view(np.uint8).reshape(-1, 4)
    pcm = np.empty((len(steps), SAMPLE_BYTES), np.uint8)
    # Copying one column at a time is five times faster than all three at once.
    for byte in range(SAMPLE_BYTES):
        pcm[:, byte] = four_bytes[:, byte]
    return pcm.tobytes()


def _unpacked(pcm: bytes) -> Float32:
    """Return the samples in 24-bit PCM, shape (n,)."""
    three_bytes = np.frombuffer(pcm, np.uint8).reshape(-1, SAMPLE_BYTES)
    steps = np.zeros(len(three_bytes), "<i4")
    # The bytes become the upper three of four. This keeps the sign, and makes the numbers 256 times too large.
    for byte in range(SAMPLE_BYTES):
        steps.view(np.uint8).reshape(-1, 4)[:, byte + 1] = three_bytes[:, byte]
    return steps.astype(np.float32) / np.float32(256 * SAMPLE_STEPS)
