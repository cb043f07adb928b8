"""What both decoders share: the watched file that they read, and the blocks of samples that they give."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

from stem_dataset.datatypes import DecoderName, Float32, T
from stem_dataset.errors import TooLong

BLOCK_S = 2  # audio is decoded in blocks of two seconds of its own rate (ten leave the cache and cost 15 % more) ...
BLOCK_VALUES = 2**20  # ... but of at most this many values over all channels (4 MiB of float32)

Patch = tuple[int, bytes]  # a position in the file, and the bytes that a decoder is to see there


class WatchedFile:
    """An open file that remembers the first error of the machine while a decoder reads through it.

    soundfile and FFmpeg swallow what their callbacks raise: without this, an I/O error half way through a WAV, AIFF or
    ogg becomes a shorter valid file, and in FLAC or MP3 a decode error that would quarantine a healthy file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.fault: OSError | MemoryError | None = None

    def __repr__(self) -> str:
        return "the file"  # in soundfile's "Error opening …"

    def readinto(self, buffer: Any) -> int:
        return self._watch(lambda: self.file.readinto(buffer), 0)  # type: ignore[attr-defined]  # IO[bytes] lacks it

    def read(self, size: int = -1) -> bytes:
        return self._watch(lambda: self.file.read(size), b"")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._watch(lambda: self.file.seek(offset, whence), 0)

    def tell(self) -> int:
        return self._watch(self.file.tell, 0)

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self.fault is not None:
            raise self.fault

    def read_at(self, position: int, size: int) -> bytes:
        """Return up to `size` bytes from `position` on; raises what the machine has to say."""
        self.seek(max(0, position))
        content = self.read(size)
        self.check()
        return content

    def size(self) -> int:
        """Return the number of bytes; raises what the machine has to say."""
        size = self.seek(0, os.SEEK_END)
        self.check()
        return size

    def _watch(self, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except (OSError, MemoryError) as error:
            # EINVAL is no fault of the disk: a broken header sent the decoder to a place before the file's start.
            if getattr(error, "errno", None) != errno.EINVAL:
                self.fault = self.fault or error
            return otherwise  # as at the end of the file; `check` tells the truth afterwards


class FilePart(WatchedFile):
    """A part of a watched file that a decoder takes for a whole file, some of its bytes replaced."""

    def __init__(self, whole: WatchedFile, start: int, stop: int, patches: tuple[Patch, ...] = ()) -> None:
        """`patches` are at positions within the part, and the part has the bytes of `whole` in [start, stop)."""
        super().__init__(whole.file)
        self.whole = whole
        self.start, self.stop = start, stop
        self.patches = patches
        self.position = 0

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        content = self.read(len(target))
        target[: len(content)] = content
        return len(content)

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.stop - self.start - self.position)
        self.whole.seek(self.start + self.position)
        content = self.whole.read(left if size < 0 else min(size, left))
        for position, patch in self.patches:
            content = patched(content, position - self.position, patch)
        self.position += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.stop - self.start}[whence]
        if base + offset < 0:
            return 0  # as `WatchedFile` answers to a place before the file's start
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def check(self) -> None:
        self.whole.check()


def patched(content: bytes, offset: int, patch: bytes) -> bytes:
    """Return `content` with `patch` over its bytes from `offset` on, as far as they overlap."""
    start, stop = max(0, offset), min(len(content), offset + len(patch))
    return content[:start] + patch[start - offset : stop - offset] + content[stop:] if start < stop else content


@dataclass(frozen=True, slots=True)
class Block:
    """Decoded audio: shape (frames, channels), nominally in [-1, 1]; the next may have another rate and channels."""

    samples: Float32
    rate_hz: int


class Decoder(Protocol):
    """An open file whose audio is read once, from its start to its end."""

    format: str  # the container's name, for messages
    claimed_s: float  # how long it is by its header, which may lie; infinite where the header does not say

    @property
    def name(self) -> DecoderName:
        """As a row's features name it."""

    def blocks(self) -> Iterator[Block]:
        """Yield the audio; raises what the machine has to say, or the decoder's error for bad audio."""

    def is_truncated(self, frames: int) -> bool:
        """Whether there should be more than the `frames` that were read."""

    def close(self) -> None: ...


class Clock:
    """Counts the seconds that were decoded."""

    def __init__(self, max_duration_s: float) -> None:
        self.max_duration_s = max_duration_s
        self.frames_at: dict[int, int] = {}  # of each rate

    def add(self, block: Block) -> None:
        """Count `block`; raises `TooLong`."""
        self.frames_at[block.rate_hz] = self.frames_at.get(block.rate_hz, 0) + len(block.samples)
        if sum(frames / rate_hz for rate_hz, frames in self.frames_at.items()) > self.max_duration_s:
            raise TooLong(f"more than max_duration_s = {self.max_duration_s:g} s at {block.rate_hz} Hz")
