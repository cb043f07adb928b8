"""The standardised WAV, written block by block and read back."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
import wave
from pathlib import Path
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from stem_dataset.datatypes import SAMPLE_RATE_HZ, Float32
from stem_dataset.errors import blaming_the_program
from stem_dataset.files import sync_folder

SAMPLE_STEPS = 2**23  # 24-bit PCM
SAMPLE_BYTES = 3
WAV_HEADER_BYTES = 44  # RIFF + fmt + data, as the standard library's `wave` writes it

KEPT_SAMPLES = 2**21  # up to 44 s (8 MiB) the standardised samples stay in memory; longer ones are read back from disk


class StoredAudio:
    """A WAV of 48 kHz, mono, 24 bit, with a header of 44 bytes: what `StandardisedAudio` has published, for reading."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self.file = file
        self.length = length

    def samples(self, start: int = 0, stop: int | None = None) -> Float32:
        """Return samples [start, stop), float32 in [-1, 1), exactly those in the WAV."""
        stop = self.length if stop is None else stop
        self.file.seek(WAV_HEADER_BYTES + start * SAMPLE_BYTES)
        return _unpacked(self.file.read((stop - start) * SAMPLE_BYTES))


class StandardisedAudio(StoredAudio):
    """The samples that everything else comes from: 48 kHz, mono, 24 bit, in a WAV on disk, so that an hour needs no
    more memory than a minute.

    Write with `append`, then `finish`; read with `samples`; `publish` moves the WAV to its place. Used as a context
    manager; what was not published is gone afterwards.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.scratch = folder / f"{os.getpid()}-{uuid.uuid4().hex}.wav"
        super().__init__(open(self.scratch, "x+b"), length=0)  # noqa: SIM115  # closed by __exit__ or publish
        self._begin()

    def _begin(self) -> None:
        self.length = 0
        self.wave = wave.open(self.file, "wb")  # noqa: SIM115  # closed by finish; an OSError of a full disk comes through
        self.wave.setparams((1, SAMPLE_BYTES, SAMPLE_RATE_HZ, 0, "NONE", "not compressed"))
        self.peak = 0.0
        self.kept: list[Float32] = []  # all samples, or none beyond KEPT_SAMPLES; one piece once finished
        self.hash = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # an unfinished header needs no room on a full disk
            self.wave.close()
        self.file.close()
        self.scratch.unlink(missing_ok=True)

    @blaming_the_program()
    def restart(self) -> None:
        """Drop all samples: another decoder begins anew."""
        self.wave.close()
        self.file.seek(0)
        self.file.truncate()
        self._begin()

    @blaming_the_program()
    def append(self, mono: Float32) -> None:
        """Round `mono`, shape (n,), to 24 bit once, clipped at ±1, and add it."""
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
        """Complete the WAV's header; no `append` after this."""
        self.wave.close()
        self.file.flush()
        if self.kept:
            self.kept = [np.concatenate(self.kept)]

    def samples(self, start: int = 0, stop: int | None = None) -> Float32:
        """Return samples [start, stop), as in `StoredAudio`."""
        return self.kept[0][start:stop] if self.kept else super().samples(start, stop)

    def publish(self, path: Path) -> None:
        """Move the WAV to `path` for good: synced, then renamed, so that no half a WAV is ever there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.scratch, path)
        sync_folder(path.parent)


def _packed(steps: npt.NDArray[np.int32]) -> bytes:
    """Return the 24-bit PCM of `steps`, shape (n,)."""
    four_bytes = steps.view(np.uint8).reshape(-1, 4)
    pcm = np.empty((len(steps), SAMPLE_BYTES), np.uint8)
    for byte in range(SAMPLE_BYTES):  # five times faster than all three at once
        pcm[:, byte] = four_bytes[:, byte]
    return pcm.tobytes()


def _unpacked(pcm: bytes) -> Float32:
    """Return the samples, shape (n,), of 24-bit PCM."""
    three_bytes = np.frombuffer(pcm, np.uint8).reshape(-1, SAMPLE_BYTES)
    steps = np.zeros(len(three_bytes), "<i4")
    for byte in range(SAMPLE_BYTES):  # into the upper three of four: keeps the sign, and is 256 times too large
        steps.view(np.uint8).reshape(-1, 4)[:, byte + 1] = three_bytes[:, byte]
    return steps.astype(np.float32) / np.float32(256 * SAMPLE_STEPS)
