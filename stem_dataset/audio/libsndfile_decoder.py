"""Decode WAV, AIFF, FLAC, Ogg, MP3 and other formats with libsndfile."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import soundfile

from stem_dataset.audio.formats import AudioFormat
from stem_dataset.audio.frames import find_stream
from stem_dataset.audio.source import BLOCK_S, BLOCK_VALUES, Block, FilePart, WatchedFile
from stem_dataset.audio.truncation import Promise, is_truncated
from stem_dataset.datatypes import DecoderName, Float32
from stem_dataset.errors import is_memory_error

# In files of these kinds, libsndfile may stop before the end, while FFmpeg reads on.
LOSSY_KINDS = ("MP3", "OGG")
# This many bytes after the place where libsndfile stopped are searched for more frames of an MP3.
UNREAD_BYTES = 2**16
# If no more than this is left, it is not searched: the MP3 decoder may have read this far ahead.
READ_AHEAD_BYTES = 4_096


class StreamedSoundFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile ships no types
    """A SoundFile that is only read forward.

    If a file is seekable, soundfile seeks after each read, which fails at the end of a FLAC of unknown length.
    """

    def seekable(self) -> bool:
        return False


class LibsndfileDecoder:
    """A `Decoder` that uses libsndfile.

    Each link of a chained Ogg is opened as a separate file, since libsndfile reads only the first.
    """

    name: DecoderName = "libsndfile"

    def __init__(self, watched: WatchedFile, found: AudioFormat) -> None:
        """Raises soundfile.LibsndfileError, and OSError or MemoryError from reading the file."""
        self.watched = watched
        self.found = found
        self.part = found.part_of(watched)
        self.links = _links(watched, found) or [self.part]
        self.stopped_at = 0  # the position after the last read
        self.notes = ""  # libsndfile's log
        self.stream = _open(self.links[0])
        self.format: str = self.stream.format
        self.claimed_s: float = self.stream.frames / self.stream.samplerate

    def blocks(self) -> Iterator[Block]:
        """Yield the audio of each link; raises the same as `__init__`."""
        for link in self.links:
            if link is not self.links[0]:
                self.stream.close()
                self.stream = _open(link)
            for samples in _read_blocks(self.stream, link):
                yield Block(samples, self.stream.samplerate)
        self.stopped_at = self.part.tell()
        self.notes = self.stream.extra_info

    def ended_early(self) -> bool:
        """Return whether an MP3 has more frames after the place where libsndfile stopped.

        libsndfile guesses the number of frames, and may guess too few.
        """
        if self.found.kind != "MP3":
            return False
        rest = self.part.read_at(self.stopped_at, UNREAD_BYTES)
        return len(rest) > READ_AHEAD_BYTES and find_stream(rest, is_all=False, kinds=(b"\xff",)) is not None

    def is_truncated(self, frames: int) -> bool:
        promise = Promise(frames, self.stream.samplerate, self.stream.channels, self.notes)
        return is_truncated(self.part, self.found, promise)

    def close(self) -> None:
        self.stream.close()


def _links(watched: WatchedFile, found: AudioFormat) -> list[WatchedFile]:
    """Return the links of a chained Ogg; other files have none."""
    if found.pages is None or len(found.pages.starts) < 2:
        return []
    stops = [*found.pages.starts[1:], found.pages.stop]
    return [FilePart(watched, start, stop) for start, stop in zip(found.pages.starts, stops, strict=True)]


def _open(part: WatchedFile) -> StreamedSoundFile:
    part.seek(0)
    try:
        return StreamedSoundFile(part)
    finally:
        part.check()


def _read_blocks(stream: StreamedSoundFile, part: WatchedFile) -> Iterator[Float32]:
    """Yield the decoded audio in blocks of shape (frames, channels).

    The samples are float32, nominally in [-1, 1].
    """
    block_frames = max(1, min(BLOCK_S * stream.samplerate, BLOCK_VALUES // stream.channels))
    # If more frames are read than a FLAC holds, libsndfile reports what follows the last one (an ID3v1 tag, zeros) as
    # damage. So no more are read than STREAMINFO states; libsndfile never returns more than that. An unknown length is
    # 2**63 - 1.
    most_frames = stream.frames if stream.format == "FLAC" else sys.maxsize
    frames = 0
    while True:
        try:
            wanted = min(block_frames, most_frames - frames)
            block: Float32 = stream.read(wanted, dtype="float32", always_2d=True)
        finally:
            # If the decoder raised because of an I/O error, the I/O error must be raised instead.
            part.check()
        if not len(block):
            return
        frames += len(block)
        yield block


def may_be_read_by_ffmpeg(error: Exception, found: AudioFormat, is_open: bool) -> bool:
    """Return whether to try FFmpeg after `error` ended libsndfile.

    FFmpeg may succeed if libsndfile does not know the format, or if the format is lossy. A lossless file that
    libsndfile opens and then finds damaged is broken.
    """
    if found.demuxer is None or is_memory_error(error):
        return False
    return found.kind in LOSSY_KINDS if is_open else isinstance(error, soundfile.LibsndfileError)
