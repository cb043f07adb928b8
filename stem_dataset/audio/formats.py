"""Identify the format of a file by its bytes, not its suffix.

This skips tags and junk before the audio, and corrects odd headers.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np

from stem_dataset.audio.frames import find_stream, mpeg_frame, stream_at
from stem_dataset.audio.ogg import OggPages, read_pages
from stem_dataset.audio.source import FilePart, Patch, WatchedFile

HEAD_BYTES = 64
# Room for `CHAIN_FRAMES` of the longest possible frames: those of AAC have 8,191 bytes.
CHAIN_BYTES = 32_768
# How far to search for audio after junk.
SEARCH_BYTES = 2**20
# The same after an ID3v2 tag whose stated size is wrong, since the tag may hold a picture.
TAG_SEARCH_BYTES = 2**24

# The name of FFmpeg's demuxer for each kind, used if libsndfile cannot read the file. FFmpeg never guesses it.
DEMUXERS = {
    **{"WAV": "wav", "RF64": "wav", "W64": "w64", "AIFF": "aiff", "AU": "au", "VOC": "voc", "CAF": "caf"},
    **{"FLAC": "flac", "OGG": "ogg", "MP3": "mp3", "AAC": "aac", "AC-3": "ac3", "E-AC-3": "eac3", "DTS": "dts"},
    **{"DTS-HD": "dtshd", "MP4": "mov", "Matroska": "matroska", "ASF": "asf", "APE": "ape", "WavPack": "wv"},
    **{"TTA": "tta", "Musepack": "mpc", "Musepack 8": "mpc8", "RealAudio": "rm"},
}
READ_BY_LIBSNDFILE = frozenset({"", "WAV", "RF64", "W64", "AIFF", "AU", "VOC", "CAF", "FLAC", "OGG", "MP3"})

MAGIC = (
    (re.compile(rb"RIFF....WAVE|RIFX....WAVE", re.DOTALL), "WAV"),
    (re.compile(rb"(?:RF64|BW64)....WAVE", re.DOTALL), "RF64"),
    (re.compile(rb"riff\x2e\x91\xcf\x11", re.DOTALL), "W64"),
    (re.compile(rb"FORM....AIF[FC]", re.DOTALL), "AIFF"),
    (re.compile(rb"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL), "FLAC"),
    (re.compile(rb"OggS\x00", re.DOTALL), "OGG"),
    (re.compile(rb"caff\x00[\x01\x02]", re.DOTALL), "CAF"),
    (re.compile(rb"\.snd\x00\x00|dns\.", re.DOTALL), "AU"),
    (re.compile(rb"Creative Voice File\x1a", re.DOTALL), "VOC"),
    (re.compile(rb"....(?:ftyp|moov|wide|free|skip|mdat|pnot)", re.DOTALL), "MP4"),
    (re.compile(rb"\x1a\x45\xdf\xa3", re.DOTALL), "Matroska"),
    (re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", re.DOTALL), "ASF"),
    (re.compile(rb"MAC [\x00-\xff]\x0f", re.DOTALL), "APE"),  # versions 3.84 to 4.09
    (re.compile(rb"wvpk....[\x02-\x10]\x04", re.DOTALL), "WavPack"),
    (re.compile(rb"TTA1[\x01-\x03]\x00", re.DOTALL), "TTA"),
    (re.compile(rb"MPCKSH", re.DOTALL), "Musepack 8"),
    (re.compile(rb"MP\+[\x07\x17]...[\x00\x01]", re.DOTALL), "Musepack"),
    (re.compile(rb"DTSHDHDR", re.DOTALL), "DTS-HD"),
    (re.compile(rb"\.RMF\x00\x00\x00|\.ra\xfd\x00", re.DOTALL), "RealAudio"),
)
# These are searched for if the size in a tag is wrong. They are long enough not to occur in a picture by chance.
BEHIND_A_TAG = re.compile(
    rb"(?:RIFF|RF64|BW64)....WAVE|FORM....AIF[FC]|fLaC\x00\x00\x00\x22|OggS\x00\x02\x00\x00|\x00\x00\x00.ftyp",
    re.DOTALL,
)

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
KNOWN_SUBTYPES = (
    bytes.fromhex("00001000800000aa00389b71"),  # KSDATAFORMAT_SUBTYPE
    bytes.fromhex("2107d3118644c8c1ca000000"),  # Ambisonics B-Format
)
MOST_CHUNKS = 200  # of a file


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """The kind of audio in a file, and where it is."""

    # A key of `DEMUXERS`, or '' if unknown. Then libsndfile is tried, which may know it.
    kind: str
    start: int = 0
    stop: int | None = None  # None means the file's end
    patches: tuple[Patch, ...] = ()  # for the header, relative to `start`
    pages: OggPages | None = None

    @property
    def demuxer(self) -> str | None:
        return DEMUXERS.get(self.kind)

    def part_of(self, watched: WatchedFile) -> WatchedFile:
        """Return the part of the file that a decoder should read."""
        if self.start == 0 and self.stop is None and not self.patches:
            return watched
        return FilePart(watched, self.start, self.stop or watched.size(), self.patches)


def identify(watched: WatchedFile) -> AudioFormat:
    """Return the format of a file; raises OSError or MemoryError from reading it."""
    start, tags = skip_tags(watched)
    kind = kind_at(watched, start)
    # libsndfile skips one tag itself. An MP3 with one tag is left whole, since libsndfile's guess at its length depends
    # on where the file starts.
    starts_with_frame = tags < 2 and mpeg_frame(watched.read_at(start, 10)) is not None
    if kind is None:
        found = _search(watched, start if start < watched.size() else 0, tags > 0)
        if found is None:
            return AudioFormat("")
        start, kind = found
    if kind == "MP3" and starts_with_frame:
        start = 0
    if kind == "OGG":
        return _chain(watched, start, watched.size(), is_part=False)
    return _wav(watched, kind, start) if kind in ("WAV", "RF64") else AudioFormat(kind, start)


def skip_tags(watched: WatchedFile) -> tuple[int, int]:
    """Return the end and the number of a file's leading ID3v2 tags.

    The end follows from the sizes that the tags state.
    """
    position, tags = 0, 0
    while True:
        tag = watched.read_at(position, 10)
        if len(tag) < 10 or tag[:3] != b"ID3" or tag[3] == 0xFF or max(tag[6:10]) > 0x7F:
            return position, tags
        size = sum(byte << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True))
        position += 10 + size + (10 if tag[5] & 0x10 else 0)  # 10 for a footer
        tags += 1


def kind_at(watched: WatchedFile, position: int) -> str | None:
    """Return the kind of the audio that begins at `position`, or None."""
    head = watched.read_at(position, HEAD_BYTES)
    for pattern, kind in MAGIC:
        if pattern.match(head):
            return kind
    if head[:1] in (b"\xff", b"\x0b", b"\x7f"):
        content = watched.read_at(position, CHAIN_BYTES)
        return stream_at(content, 0, is_all=len(content) < CHAIN_BYTES)
    return None


def _search(watched: WatchedFile, start: int, is_tagged: bool) -> tuple[int, str] | None:
    """Return the position and the kind of audio that follows junk, or None.

    Streams of MPEG audio and AAC may follow junk. Headers of containers are searched for only after a tag, since no
    other junk precedes them.
    """
    content = watched.read_at(start, TAG_SEARCH_BYTES if is_tagged else SEARCH_BYTES)
    is_all = len(content) < SEARCH_BYTES
    found = find_stream(content, is_all, (b"\xff",))
    if is_tagged and (match := BEHIND_A_TAG.search(content)) and (found is None or match.start() < found[0]):
        position = start + match.start()
        kind = kind_at(watched, position)
        return None if kind is None else (position, kind)
    if found is None:
        return None
    return start + found[0], found[1]


def _chain(watched: WatchedFile, start: int, stop: int, is_part: bool) -> AudioFormat:
    pages = read_pages(watched, start, stop)
    return AudioFormat("OGG", start, stop if is_part else None, pages=pages)


# -- WAV --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of RIFF, IFF or CAF: its name, its content's start, and its stated size."""

    name: bytes
    start: int
    size: int


def riff_chunks(watched: WatchedFile, start: int, byte_order: str = "<", last: bytes | None = b"data") -> list[Chunk]:
    """Return the chunks of a WAV or AIFF up to and including `last`.

    If `last` is None, all chunks are returned.
    """
    chunks: list[Chunk] = []
    position = start + 12
    wide_size = None
    while len(chunks) < MOST_CHUNKS:
        header = watched.read_at(position, 8)
        if len(header) < 8:
            break
        name, size = struct.unpack(f"{byte_order}4sI", header)
        if name == b"ds64":
            wide_size = int.from_bytes(watched.read_at(position + 16, 8), "little")
        if name == b"data" and size == 0xFFFF_FFFF and wide_size is not None:
            size = wide_size
        chunks.append(Chunk(name, position + 8, size))
        if name == last:
            break
        position += 8 + size + size % 2
    return chunks


def _wav(watched: WatchedFile, kind: str, start: int) -> AudioFormat:
    """Return the format of a WAV, or of an Ogg stream in it.

    The patches correct an odd header.
    """
    magic = watched.read_at(start, 4)
    byte_order = ">" if magic == b"RIFX" else "<"
    chunks = {chunk.name: chunk for chunk in reversed(riff_chunks(watched, start, byte_order))}
    data, layout = chunks.get(b"data"), chunks.get(b"fmt ")
    patches: list[Patch] = []
    # BW64 (ITU-R BS.2088) is RF64 with another name and chunks of metadata.
    if magic == b"BW64":
        patches.append((0, b"RF64"))
    if data is not None and watched.read_at(data.start, 5) == b"OggS\0":
        return _chain(watched, data.start, min(data.start + data.size, watched.size()), is_part=True)
    if data is not None and layout is not None:
        tag = _plain_tag(watched, layout, data, byte_order)
        if tag is not None:
            patches.append((layout.start - start, struct.pack(f"{byte_order}H", tag)))
    return AudioFormat(kind, start, patches=tuple(patches))


def _plain_tag(watched: WatchedFile, layout: Chunk, data: Chunk, byte_order: str) -> int | None:
    """Return the plain format tag to use for a WAVE_FORMAT_EXTENSIBLE header, or None.

    A tag is returned only if the extension of the header is too short or has an unknown subtype.
    """
    fields = watched.read_at(layout.start, min(layout.size, 40))
    if len(fields) < 16 or struct.unpack_from(f"{byte_order}H", fields)[0] != EXTENSIBLE:
        return None
    if len(fields) == 40:
        subtype = struct.unpack_from(f"{byte_order}H", fields, 24)[0]
        if fields[28:] in KNOWN_SUBTYPES and subtype not in (0, EXTENSIBLE):
            return None
        if subtype in (PCM, FLOAT):
            return int(subtype)
    bits = struct.unpack_from(f"{byte_order}H", fields, 14)[0]
    if bits == 64 or (bits == 32 and _looks_like_float(watched.read_at(data.start, 4_096), byte_order)):
        return FLOAT
    return PCM if bits in (8, 16, 24, 32) else None


def _looks_like_float(content: bytes, byte_order: str) -> bool:
    """Return whether 32-bit samples are probably floats rather than integers.

    Read as floats, nearly all of them are 0 or between 1e-7 and 8. Integers read as floats are not.
    """
    values = np.abs(np.frombuffer(content[: len(content) // 4 * 4], f"{byte_order}f4"))
    with np.errstate(invalid="ignore"):
        plausible = (values == 0) | ((values > 1e-7) & (values < 8))
    return bool(len(values)) and float(plausible.mean()) > 0.95 and bool(values.any())
