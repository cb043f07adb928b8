"""Read blocks of samples from any file that libsndfile reads."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

import soundfile

from stem_dataset.datatypes import Float32
from stem_dataset.errors import TooLong

BLOCK_S = 2  # audio is decoded in blocks of two seconds of its own rate (ten leave the cache and cost 15 % more) ...
BLOCK_VALUES = 2**20  # ... but of at most this many values over all channels (4 MiB of float32)

# Writers to a pipe put 0x7FFFF000 (sox), 0x80000000 (arecord) or 0xFFFFFFFF (ffmpeg) where the length belongs.
UNKNOWN_CHUNK_BYTES = (range(0x7FFF_F000, 0x8000_1000), range(0xFFFF_F000, 2**64))


class WatchedFile:
    """An open file that remembers the first error of the machine while libsndfile reads through it.

    soundfile swallows what its callbacks raise: without this, an I/O error half way through a WAV, AIFF or ogg becomes
    a shorter valid file, and in FLAC or MP3 a decode error that would quarantine a healthy file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.fault: OSError | MemoryError | None = None

    def __repr__(self) -> str:
        return "the file"  # in soundfile's "Error opening …"

    def readinto(self, buffer: Any) -> int:
        return self._watch(lambda: self.file.readinto(buffer))  # type: ignore[attr-defined]  # IO[bytes] lacks it

    def read(self, size: int = -1) -> bytes:  # soundfile asks for the method, and calls readinto
        return self.file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._watch(lambda: self.file.seek(offset, whence))

    def tell(self) -> int:
        return self._watch(self.file.tell)

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self.fault is not None:
            raise self.fault

    def _watch(self, call: Callable[[], int]) -> int:
        try:
            return call()
        except (OSError, MemoryError) as error:
            # EINVAL is no fault of the disk: a broken header sent libsndfile to a place before the file's start.
            if getattr(error, "errno", None) != errno.EINVAL:
                self.fault = self.fault or error
            return 0  # the end of the file, for libsndfile; `check` tells the truth afterwards


class StreamedSoundFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile ships no types
    """A SoundFile that is only read forward: soundfile seeks after each read otherwise, which fails at the end of a
    FLAC of unknown length."""

    def seekable(self) -> bool:
        return False


def open_stream(watched: WatchedFile) -> StreamedSoundFile:
    watched.seek(0)
    try:
        return StreamedSoundFile(watched)
    finally:
        watched.check()


def count_frames(watched: WatchedFile, max_duration_s: float) -> None:
    """Raise `TooLong` if a header that says so is right: headers lie, and 400 kB at 1 Hz are gigabytes at 48 kHz."""
    with open_stream(watched) as stream:
        for _ in read_blocks(stream, watched, max_duration_s):
            pass


def read_blocks(stream: StreamedSoundFile, watched: WatchedFile, max_duration_s: float) -> Iterator[Float32]:
    """Yield the decoded audio in blocks of shape (frames, channels), float32, nominally in [-1, 1]."""
    block_frames = max(1, min(BLOCK_S * stream.samplerate, BLOCK_VALUES // stream.channels))
    # Who asks for more than a FLAC holds is told that what follows its last frame (an ID3v1 tag, zeros) is damage. The
    # count in STREAMINFO may be asked for and no more: libsndfile hands out no more in any case. 2**63 - 1: not known.
    most_frames = stream.frames if stream.format == "FLAC" else sys.maxsize
    frames = 0
    while True:
        try:
            wanted = min(block_frames, most_frames - frames)
            block: Float32 = stream.read(wanted, dtype="float32", always_2d=True)
        finally:
            watched.check()  # also where the decoder raised: the machine's error is the cause
        if not len(block):
            return
        frames += len(block)
        if frames > max_duration_s * stream.samplerate:
            raise TooLong(f"more than max_duration_s = {max_duration_s:g} s at {stream.samplerate} Hz")
        yield block
