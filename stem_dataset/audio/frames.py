"""Find streams without a container: MPEG audio, ADTS, AC-3, E-AC-3 and DTS.

A frame header has a fixed pattern of only 11 to 32 bits, which occurs in text and noise by chance. A chain of frames
does not: each frame begins where the last one ends, and all have the same rate and channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# This many frames in a row prove a stream. Noise has an MPEG header every 5,000 bytes, but a chain every 10**23.
CHAIN_FRAMES = 4
HEADER_BYTES = 10  # enough for any kind of header

# The bitrates in kbit/s, by version (1; 2 for MPEG-2 and 2.5) and layer. A header holds the index.
MPEG_KBPS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG_RATES_HZ = (44_100, 48_000, 32_000)
AC3_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
AC3_RATES_HZ = (48_000, 44_100, 32_000)


@dataclass(frozen=True, slots=True)
class Frame:
    """The contents of a frame header."""

    size_bytes: int
    # The kind, the rate and the channels, for example. All frames of a stream have the same.
    stream: tuple[str | int, ...]
    samples: int = 0
    rate_hz: int = 0


# A function that reads a header from its first bytes, or returns None if they are not a header.
Parse = Callable[[bytes], Frame | None]


def mpeg_frame(header: bytes) -> Frame | None:
    """Read a header of MPEG-1, 2 or 2.5, layer I, II or III.

    A header without a stated bitrate is refused.
    """
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version_bits, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate_index, rate_index = header[2] >> 4, header[2] >> 2 & 3
    if version_bits == 1 or layer == 4 or bitrate_index in (0, 15) or rate_index == 3:
        return None
    version = 1 if version_bits == 3 else 2
    rate_hz = MPEG_RATES_HZ[rate_index] >> {3: 0, 2: 1, 0: 2}[version_bits]
    bits_per_s = 1_000 * MPEG_KBPS[version, layer][bitrate_index]
    padding = header[2] >> 1 & 1
    samples = {1: 384, 2: 1_152, 3: 1_152 if version == 1 else 576}[layer]
    slot_bytes = 4 if layer == 1 else 1
    size_bytes = (samples // 8 // slot_bytes * bits_per_s // rate_hz + padding) * slot_bytes
    is_mono = header[3] >> 6 == 3
    return Frame(size_bytes, ("MP3", layer, rate_hz, is_mono), samples, rate_hz)


def adts_frame(header: bytes) -> Frame | None:
    """Read an ADTS header, which precedes a frame of AAC."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return None
    rate_index = header[2] >> 2 & 15
    size_bytes = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    if rate_index > 12 or size_bytes < 9:
        return None
    channels = (header[2] & 1) << 2 | header[3] >> 6
    return Frame(size_bytes, ("AAC", header[1], header[2] >> 6, rate_index, channels))


def ac3_frame(header: bytes) -> Frame | None:
    """Read a header of AC-3 or E-AC-3."""
    if len(header) < 6 or header[:2] != b"\x0b\x77":
        return None
    version = header[5] >> 3
    rate_index = header[4] >> 6
    if 10 < version <= 16:
        size_bytes = 2 * (((header[2] & 7) << 8 | header[3]) + 1)
        return Frame(size_bytes, ("E-AC-3", rate_index)) if size_bytes >= 12 else None
    bitrate_index = header[4] & 63
    if version > 10 or rate_index == 3 or bitrate_index >= 2 * len(AC3_KBPS):
        return None
    words = AC3_KBPS[bitrate_index // 2] * 96_000 // AC3_RATES_HZ[rate_index]  # 1,536 samples
    size_bytes = 2 * (words + (bitrate_index & 1 if rate_index == 1 else 0))
    return Frame(size_bytes, ("AC-3", rate_index))


def dts_frame(header: bytes) -> Frame | None:
    """Read the header of a DTS core stream in 16-bit words."""
    if len(header) < 10 or header[:4] != b"\x7f\xfe\x80\x01":
        return None
    size_bytes = ((header[5] & 3) << 12 | header[6] << 4 | header[7] >> 4) + 1
    channels = (header[7] & 15) << 2 | header[8] >> 6
    return Frame(size_bytes, ("DTS", channels, header[8] >> 2 & 15)) if size_bytes >= 96 else None


PARSERS: dict[str, Parse] = {
    "MP3": mpeg_frame,
    "AAC": adts_frame,
    "AC-3": ac3_frame,
    "E-AC-3": ac3_frame,
    "DTS": dts_frame,
}
FIRST_BYTES = (b"\xff", b"\x0b\x77", b"\x7f\xfe\x80\x01")


def stream_at(content: bytes, offset: int, is_all: bool) -> str | None:
    """Return the kind of the chain of frames at `offset`, or None.

    `is_all` means that the file ends with `content`. Then two frames that reach its end are a chain too.
    """
    for parse in (mpeg_frame, adts_frame, ac3_frame, dts_frame):
        first = parse(content[offset : offset + HEADER_BYTES])
        if first is not None and _is_chain(content, offset, parse, first, is_all):
            return str(first.stream[0])
    return None


def _is_chain(content: bytes, offset: int, parse: Parse, first: Frame, is_all: bool) -> bool:
    for count in range(1, CHAIN_FRAMES):
        offset += first.size_bytes
        if is_all and offset == len(content):
            return count > 1
        frame = parse(content[offset : offset + HEADER_BYTES])
        if frame is None or frame.stream != first.stream:
            return False
        first = frame
    return True


def find_stream(content: bytes, is_all: bool, kinds: tuple[bytes, ...] = FIRST_BYTES) -> tuple[int, str] | None:
    """Return the offset and kind of the first chain of frames, or None."""
    found = []
    for first_bytes in kinds:
        offset = content.find(first_bytes)
        while offset >= 0:
            kind = stream_at(content, offset, is_all)
            if kind is not None:
                found.append((offset, kind))
                break
            offset = content.find(first_bytes, offset + 1)
    return min(found, default=None)


def cut_frame_at_end(content: bytes, parse: Parse) -> bool:
    """Return whether a stream, whose last bytes are `content`, ends within a frame.

    It does not if it ends with a whole frame, or with something other than a frame.
    """
    start = 0
    while (found := _find_pair(content, start, parse)) is not None:
        offset, frame = found
        stream = frame.stream
        while offset + frame.size_bytes <= len(content):
            offset += frame.size_bytes
            rest = content[offset : offset + HEADER_BYTES]
            following = parse(rest)
            if following is None or following.stream != stream:
                if 0 < len(rest) < HEADER_BYTES and content[found[0] :].startswith(rest[:2]):
                    return True  # within its header
                break
            frame = following
        else:
            return True  # the frame extends beyond the end
        start = offset
    return False


def _find_pair(content: bytes, start: int, parse: Parse) -> tuple[int, Frame] | None:
    """Return the first frame at or after `start` that is followed by a frame of the same stream."""
    for offset in range(start, len(content) - HEADER_BYTES):
        frame = parse(content[offset : offset + HEADER_BYTES]) if content[offset] in b"\xff\x0b\x7f" else None
        if frame is not None:
            following = parse(content[offset + frame.size_bytes : offset + frame.size_bytes + HEADER_BYTES])
            if following is not None and following.stream == frame.stream:
                return offset, frame
    return None
