"""Define the file that both decoders read and the blocks they yield."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

from stem_dataset.datatypes import DecoderName, Float32, T
from stem_dataset.errors import TooLong

# The length of a block at its own rate. Blocks of ten seconds do not fit the cache, and cost 15 % more time.
BLOCK_S = 2
# The most values in a block, over all channels: 4 MiB of float32.
BLOCK_VALUES = 2**20

# A position in the file, and the bytes that a decoder gets there.
Patch = tuple[int, bytes]


class WatchedFile:
    """An open file that remembers the first error while a decoder reads it.

    soundfile and FFmpeg swallow the exceptions of their callbacks. Without this class, an I/O error halfway through a
    WAV, AIFF or Ogg file would look like the end of a shorter one. In a FLAC or MP3 file it would look like damage, and
    a healthy file would be quarantined.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.fault: OSError | MemoryError | None = None

    def __repr__(self) -> str:
        return "the file"  # for soundfile's "Error opening …"

    def readinto(self, buffer: Any) -> int:
        return self._watch(lambda: self.file.readinto(buffer), 0)  # type: ignore[attr-defined]  # IO[bytes] lacks it

    def read(self, size: int = -1) -> bytes:
        return self._watch(lambda: self.file.read(size), b"")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._watch(lambda: self.file.seek(offset, whence), 0)

    def tell(self) -> int:
        return self._watch(self.file.tell, 0)

    def check(self) -> None:
        """Raise the first error that occurred, if any."""
        if self.fault is not None:
            raise self.fault

    def read_at(self, position: int, size: int) -> bytes:
        """Return up to `size` bytes from `position`; raises OSError or MemoryError."""
        self.seek(max(0, position))
        content = self.read(size)
        self.check()
        return content

    def size(self) -> int:
        """Return the size of the file in bytes; raises OSError or MemoryError."""
        size = self.seek(0, os.SEEK_END)
        self.check()
        return size

    def _watch(self, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except (OSError, MemoryError) as error:
            # EINVAL does not blame the disk: a broken header made the decoder seek to before the start of the file.
            if getattr(error, "errno", None) != errno.EINVAL:
                self.fault = self.fault or error
            return otherwise  # like the end; `check` raises later


class FilePart(WatchedFile):
    """Part of a watched file, which a decoder reads as a whole file.

    Some of its bytes may be replaced.
    """

    def __init__(self, whole: WatchedFile, start: int, stop: int, patches: tuple[Patch, ...] = ()) -> None:
        """The part is [start, stop) of `whole`; `patches` are relative to it."""
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
            return 0  # like `WatchedFile`, which ignores EINVAL
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def check(self) -> None:
        self.whole.check()


def patched(content: bytes, offset: int, patch: bytes) -> bytes:
    """Return `content` with its bytes from `offset` replaced by `patch`, where they overlap."""
    start, stop = max(0, offset), min(len(content), offset + len(patch))
    return content[:start] + patch[start - offset : stop - offset] + content[stop:] if start < stop else content


@dataclass(frozen=True, slots=True)
class Block:
    """Decoded audio, shape (frames, channels), nominally in [-1, 1].

    The next block of the same file may have another rate and other channels.
    """

    samples: Float32
    rate_hz: int


class Decoder(Protocol):
    """An open file whose audio is read once, from start to end."""

    format: str  # the container's name, for messages
    # The length that the header states, which may be wrong. If it states none, this is 0 or very large.
    claimed_s: float

    @property
    def name(self) -> DecoderName:
        """The decoder's name in a row's features."""

    def blocks(self) -> Iterator[Block]:
        """Yield the audio.

        Raises OSError or MemoryError from reading the file, or the decoder's own error for bad audio.
        """

    def is_truncated(self, frames: int) -> bool:
        """Return whether the file should hold more than the `frames` that were read."""

    def close(self) -> None: ...


class Clock:
    """Counts the decoded seconds, up to a limit."""

    def __init__(self, max_duration_s: float) -> None:
        self.max_duration_s = max_duration_s
        self.frames_at: dict[int, int] = {}  # by sample rate in Hz

    def add(self, block: Block) -> None:
        """Count a block; raises `TooLong` beyond the limit."""
        self.frames_at[block.rate_hz] = self.frames_at.get(block.rate_hz, 0) + len(block.samples)
        if sum(frames / rate_hz for rate_hz, frames in self.frames_at.items()) > self.max_duration_s:
            raise TooLong(f"more than max_duration_s = {self.max_duration_s:g} s at {block.rate_hz} Hz")
