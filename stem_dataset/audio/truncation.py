"""Detect files that hold less audio than their containers state.

Each container states that in its own way: by sizes in headers, by pages, or by the size of the last frame.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from stem_dataset.audio.formats import AudioFormat
from stem_dataset.audio.frames import PARSERS, cut_frame_at_end, mpeg_frame
from stem_dataset.audio.source import WatchedFile

# Programs that write to a pipe store 0x7FFFF000 (sox), 0x80000000 (arecord) or 0xFFFFFFFF (ffmpeg) as the length.
UNKNOWN_CHUNK_BYTES = (range(0x7FFF_F000, 0x8000_1000), range(0xFFFF_F000, 2**64))

# libsndfile logs these lines if a container states more than there is: "data : 176400 (should be 105822)" for WAV, SSND
# for AIFF, riff for W64, and Data Size for AU. The outer RIFF size of a WAV is left out, since it is often wrong in
# healthy files.
STATED_SIZE = re.compile(r"^\s*(?:data|SSND|riff|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
STATED_FRAMES = re.compile(r"Calculated frame count (\d+) does not match value from 'ds64' chunk of (\d+)")

# Programs that include the header in the size of the audio state 16 to 44 bytes too many.
MISCOUNTED_BYTES = 44
# The headers of these kinds state the number of samples.
TIMED_KINDS = ("APE", "TTA", "Musepack", "Musepack 8", "WavPack", "RealAudio")
# A file is cut if more than this share, or more than this many seconds, is missing.
LEAST_SHARE, LEAST_S = 0.01, 0.05

TAIL_BYTES = 2**15
# An MP3 may lack this many of the samples that its first frame states, if its last frame is whole.
TOLERATED_SAMPLES = 3 * 1_152


@dataclass(frozen=True, slots=True)
class Promise:
    """What a decoder read, and what it reports about the container."""

    frames: int
    rate_hz: int
    channels: int
    notes: str = ""  # libsndfile's log
    # The length in the container's header, as FFmpeg reads it; 0 if it is not stated.
    claimed_s: float = 0.0


def is_truncated(part: WatchedFile, found: AudioFormat, read: Promise) -> bool:
    """Return whether the container of `part` states more audio than was read."""
    if found.pages is not None:
        return found.pages.is_cut
    if found.kind == "MP3":
        return _mp3_is_cut(part, read)
    if found.kind in PARSERS:
        return cut_frame_at_end(tail_of(part), PARSERS[found.kind])
    if found.kind in SIZED_BOXES and SIZED_BOXES[found.kind](part):
        return True
    if found.kind in TIMED_KINDS and misses(read.claimed_s, read.frames / read.rate_hz, 1):
        return True
    return _sizes_promise_more(read)


def misses(stated: float, real: float, per_s: float) -> bool:
    """Return whether more than 1 % or 50 ms is missing.

    `per_s` is the amount per second, in the unit of `stated` and `real`.
    """
    missing = stated - real
    return missing > LEAST_SHARE * stated or missing > LEAST_S * per_s


def _sizes_promise_more(read: Promise) -> bool:
    for stated, real in ((int(stated), int(real)) for stated, real in STATED_SIZE.findall(read.notes)):
        is_known = not any(stated in unknown for unknown in UNKNOWN_CHUNK_BYTES)
        bytes_per_s = real / max(1, read.frames) * read.rate_hz
        if is_known and stated - real > MISCOUNTED_BYTES and misses(stated, real, bytes_per_s):
            return True
    return any(misses(int(stated), int(real), read.rate_hz) for real, stated in STATED_FRAMES.findall(read.notes))


# -- MP3 --------------------------------------------------------------------------------------------------------------


def _mp3_is_cut(part: WatchedFile, read: Promise) -> bool:
    """Return whether an MP3 lacks stated frames, or ends within one.

    The number of frames is in a Xing, Info or VBRI header. libsndfile's own count is useless here: it includes tags and
    cover art, and may be 70 times too high.
    """
    promised = _promised_samples(part)
    if promised is not None and read.frames >= promised:
        return False
    if promised is not None and read.frames < promised - TOLERATED_SAMPLES:
        return True
    return cut_frame_at_end(tail_of(part), mpeg_frame)


def _promised_samples(part: WatchedFile) -> int | None:
    """Return the number of samples that an MP3's first frame states.

    The file may begin with an ID3v2 tag, whose size is in 4 x 7 bits. The first frame follows. It may hold "Xing" or
    "Info", flags, and the number of frames. The encoder's name is 120 bytes after "Xing". The numbers of samples that
    the encoder added before and after the audio, which decoders cut off, are 21 bytes after the name, in 12 bits each.
    Or the frame holds "VBRI", the version, the delay and the quality (2 bytes each), and the numbers of bytes and
    frames. If it holds neither, None is returned.
    """
    tag = part.read_at(0, 10)
    id3_bytes = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=False))
    content = part.read_at(id3_bytes if tag.startswith(b"ID3") else 0, 1_024)
    first = mpeg_frame(content)
    if first is None:
        return None
    match = re.search(rb"(?:Xing|Info)...(.)(....)", content, re.DOTALL)
    if match is not None and match[1][0] & 1:
        encoder = content[match.start() + 120 : match.start() + 144]
        added = int.from_bytes(encoder[21:24], "big") if match[1][0] & 15 == 15 and encoder[:4].isalnum() else 0
        return int.from_bytes(match[2], "big") * first.samples - (added >> 12) - (added & 0xFFF)
    if content[36:40] == b"VBRI":
        return int.from_bytes(content[50:54], "big") * first.samples
    return None


def tail_of(part: WatchedFile) -> bytes:
    """Return the last bytes of a stream of frames, without an ID3v1 tag."""
    size = part.size()
    content = part.read_at(size - TAIL_BYTES, TAIL_BYTES) if size > TAIL_BYTES else part.read_at(0, size)
    if content[-128:-125] == b"TAG":
        content = content[:-128]
    return content


# -- containers of boxes, each of which states its size ---------------------------------------------------------------


def _mp4_is_cut(part: WatchedFile) -> bool:
    """Return whether a top-level box extends beyond the end of the file.

    The last box may state 0, which means the rest of the file.
    """
    size, position = part.size(), 0
    while 0 <= position <= size - 8:
        header = part.read_at(position, 16)
        box_bytes = int.from_bytes(header[:4], "big")
        if box_bytes == 1:
            box_bytes = int.from_bytes(header[8:16], "big")
        if box_bytes < 8:
            return False
        position += box_bytes
    return position > size


def _caf_is_cut(part: WatchedFile) -> bool:
    """Return whether the data chunk extends beyond the end of the file.

    It may state -1, which means the rest of the file.
    """
    size, position = part.size(), 8
    while position <= size - 12:
        header = part.read_at(position, 12)
        chunk_bytes = int.from_bytes(header[4:], "big", signed=True)
        position += 12
        if header[:4] == b"data" or chunk_bytes < 0:
            missing = position + chunk_bytes - size
            return missing > MISCOUNTED_BYTES and misses(chunk_bytes, chunk_bytes - missing, math.inf)
        position += chunk_bytes
    return False


def _voc_is_cut(part: WatchedFile) -> bool:
    """Return whether a block extends beyond the end of the file.

    A block of type 0 is the last.
    """
    size = part.size()
    position = int.from_bytes(part.read_at(20, 2), "little")
    while 0 < position < size:
        header = part.read_at(position, 4)
        if len(header) < 4 or header[0] == 0:
            return False
        position += 4 + int.from_bytes(header[1:], "little")
    return position > size + MISCOUNTED_BYTES


def _matroska_is_cut(part: WatchedFile) -> bool:
    """Return whether an element extends beyond the end of the file.

    A live recording has a Segment and Clusters of unknown size. Their content is examined instead.
    """
    size, position = part.size(), 0
    while position < size:
        header = part.read_at(position, 12)
        id_bytes = _vint_bytes(header[:1])
        size_bytes = _vint_bytes(header[id_bytes : id_bytes + 1])
        if not id_bytes or not size_bytes or len(header) < id_bytes + size_bytes:
            return 0 < len(header) < 12
        stated = int.from_bytes(header[id_bytes : id_bytes + size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
        position += id_bytes + size_bytes
        if stated != (1 << 7 * size_bytes) - 1:
            position += stated
    return position > size


def _vint_bytes(first: bytes) -> int:
    """Return the length of the EBML number beginning with this byte, or 0."""
    return 9 - first[0].bit_length() if first and first[0] else 0


FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _asf_is_cut(part: WatchedFile) -> bool:
    """Return whether the file is shorter than its File Properties Object states.

    In a broadcast the stated size has no meaning.
    """
    header = part.read_at(0, 2**16)
    start = header.find(FILE_PROPERTIES)
    if start < 0 or len(header) < start + 92 or header[start + 88] & 1:
        return False
    stated = int.from_bytes(header[start + 40 : start + 48], "little")
    return misses(stated, part.size(), math.inf)


SIZED_BOXES = {
    "MP4": _mp4_is_cut,
    "CAF": _caf_is_cut,
    "VOC": _voc_is_cut,
    "Matroska": _matroska_is_cut,
    "ASF": _asf_is_cut,
}
