"""Decode with libsndfile: WAV, AIFF, FLAC, Ogg, MP3 and what else it knows."""

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

LOSSY_KINDS = ("MP3", "OGG")  # where libsndfile may end in mid-file, and FFmpeg go on
UNREAD_BYTES = 2**16  # an MP3 with less behind where libsndfile stopped than this and ...
READ_AHEAD_BYTES = 4_096  # ... than that, which its decoder may hold, has no more frames


class StreamedSoundFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile ships no types
    """A SoundFile that is only read forward: soundfile seeks after each read otherwise, which fails at the end of a
    FLAC of unknown length."""

    def seekable(self) -> bool:
        return False


class LibsndfileDecoder:
    """A `Decoder`; each link of a chained Ogg is opened as a file of its own, since libsndfile ends with the first."""

    name: DecoderName = "libsndfile"

    def __init__(self, watched: WatchedFile, found: AudioFormat) -> None:
        """Raises soundfile.LibsndfileError, and what the machine has to say."""
        self.watched = watched
        self.found = found
        self.part = found.part_of(watched)
        self.links = _links(watched, found) or [self.part]
        self.stopped_at = 0  # where the file was read to
        self.notes = ""  # what libsndfile logged
        self.stream = _open(self.links[0])
        self.format: str = self.stream.format
        self.claimed_s: float = self.stream.frames / self.stream.samplerate

    def blocks(self) -> Iterator[Block]:
        """Yield the audio of each link; raises as `__init__`."""
        for link in self.links:
            if link is not self.links[0]:
                self.stream.close()
                self.stream = _open(link)
            for samples in _read_blocks(self.stream, link):
                yield Block(samples, self.stream.samplerate)
        self.stopped_at = self.part.tell()
        self.notes = self.stream.extra_info

    def ended_early(self) -> bool:
        """Whether frames of an MP3 lie behind the place where libsndfile stopped, by its guess at their number."""
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
    """Return the links of a chained Ogg, or none where there is no chain."""
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
            part.check()  # also where the decoder raised: the machine's error is the cause
        if not len(block):
            return
        frames += len(block)
        yield block


def may_be_read_by_ffmpeg(error: Exception, found: AudioFormat, is_open: bool) -> bool:
    """Whether FFmpeg may get audio where `error` ended libsndfile: it does not know the format, or that is a lossy one.

    A lossless file that libsndfile opens and then finds damaged is broken.
    """
    if found.demuxer is None or is_memory_error(error):
        return False
    return found.kind in LOSSY_KINDS if is_open else isinstance(error, soundfile.LibsndfileError)
