"""Read the chunks in which samplers and loop editors describe a WAV, AIFF or CAF file.

A chunk that is cut short says nothing, nor does a number out of its range.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from stem_dataset.audio.formats import MOST_CHUNKS, Chunk
from stem_dataset.audio.source import WatchedFile
from stem_dataset.datatypes import FileTags

# No chunk that is read here is longer, except for a smpl chunk with many loops, of which the first ones suffice.
MOST_BYTES = 4_096

# Sonic Foundry never published the layout of `acid`; libsndfile's is used: flags, root note, two unknown fields, beats,
# meter, tempo.
ACID = "IHHfIHHf"
ACID_ONE_SHOT, ACID_HAS_ROOT_NOTE = 0x01, 0x02
# Microsoft and IBM, "New Multimedia Data Types" (1994): nine numbers, then each loop's id, type, start, end, fraction
# and play count. The fourth number is the root note, the eighth the number of loops.
SMPL = "9I"
SMPL_LOOP = "6I"
# Apple's, as libsndfile reads it: version, beats, root note, scale, meter, and whether it is a one-shot.
BASC = ">II5H"
BASC_MODES = {1: "m", 2: ""}
BASC_ONE_SHOT = 1
# A C in `basc` is a multiple of 12.
BASC_NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# The UUID of the chunk in which Apple Loops in CAF hold names and values as text.
APPLE_LOOP_UUID = bytes.fromhex("29819273b5bf4aefb78d62d1ef90bb2c")
# A loop in a `smpl` chunk that begins and ends within this share of the file's ends covers the whole file.
LOOP_END_SHARE = 0.01


def tags_in_wav(watched: WatchedFile, chunks: Mapping[bytes, Chunk], byte_order: str, frames: int) -> list[FileTags]:
    """Return what `smpl`, `inst` and `acid` of a WAV state, in the order of trust.

    The root note of `smpl` and `inst` is what samplers use. Editors also write one to `acid`, for loops.
    """
    content = {name: content_of(watched, chunks[name]) for name in (b"smpl", b"inst", b"acid") if name in chunks}
    tags = [_smpl(content.get(b"smpl", b""), byte_order, frames)]
    if content.get(b"inst"):
        tags.append(FileTags(root_note=_midi_note(content[b"inst"][0])))
    return [*tags, _acid(content.get(b"acid", b""), byte_order)]


def tags_in_aiff(watched: WatchedFile, chunks: Mapping[bytes, Chunk]) -> list[FileTags]:
    """Return what `INST` and `basc` of an AIFF state, in the order of trust."""
    content = {name: content_of(watched, chunks[name]) for name in (b"INST", b"basc") if name in chunks}
    tags = [FileTags(root_note=_midi_note(content[b"INST"][0]))] if content.get(b"INST") else []
    return [*tags, _basc(content.get(b"basc", b""))]


def tags_in_caf(watched: WatchedFile, start: int) -> list[FileTags]:
    """Return what `basc` and the texts of an Apple Loop in CAF state."""
    tags = []
    for chunk in _caf_chunks(watched, start):
        if chunk.name == b"basc":
            tags.append(_basc(content_of(watched, chunk)))
        if chunk.name == b"uuid":
            content = content_of(watched, chunk)
            if content.startswith(APPLE_LOOP_UUID):
                tags.append(_apple_loop(content[len(APPLE_LOOP_UUID) :]))
    return tags


def content_of(watched: WatchedFile, chunk: Chunk) -> bytes:
    """Return the content of a chunk, or its first `MOST_BYTES`."""
    return watched.read_at(chunk.start, min(chunk.size, MOST_BYTES))


def _acid(content: bytes, byte_order: str) -> FileTags:
    if len(content) < struct.calcsize(byte_order + ACID):
        return FileTags()
    flags, root_note, _, _, beats, _, _, bpm = struct.unpack_from(byte_order + ACID, content)
    is_one_shot = bool(flags & ACID_ONE_SHOT)
    return FileTags(
        bpm=None if is_one_shot else bpm,
        beats=None if is_one_shot else float(beats),
        is_loop=False if is_one_shot else True if beats else None,
        root_note=_midi_note(root_note) if flags & ACID_HAS_ROOT_NOTE else None,
    )


def _smpl(content: bytes, byte_order: str, frames: int) -> FileTags:
    header_bytes = struct.calcsize(byte_order + SMPL)
    if len(content) < header_bytes:
        return FileTags()
    numbers = struct.unpack_from(byte_order + SMPL, content)
    loop_bytes = struct.calcsize(SMPL_LOOP)
    count = min(numbers[7], (len(content) - header_bytes) // loop_bytes)
    edge = max(1, LOOP_END_SHARE * frames)
    is_whole = any(
        start <= edge and abs(end - frames) <= edge
        for _, _, start, end, _, _ in struct.iter_unpack(
            byte_order + SMPL_LOOP, content[header_bytes : header_bytes + count * loop_bytes]
        )
    )
    return FileTags(is_loop=True if is_whole else None, root_note=_midi_note(numbers[3]))


def _basc(content: bytes) -> FileTags:
    if len(content) < struct.calcsize(BASC):
        return FileTags()
    _, beats, root_note, scale, _, beat_unit, kind = struct.unpack_from(BASC, content)
    is_one_shot = kind == BASC_ONE_SHOT
    return FileTags(
        beats=None if is_one_shot else _quarter_notes(beats, beat_unit),
        key=BASC_NOTES[root_note % 12] + BASC_MODES[scale] if scale in BASC_MODES else None,
        is_loop=False if is_one_shot else True if beats else None,
        root_note=_midi_note(root_note),
    )


def _apple_loop(content: bytes) -> FileTags:
    """Read pairs of NUL-terminated texts; their number comes first."""
    texts = [text.decode("utf-8", "replace") for text in content[4:].split(b"\0")]
    values = dict(zip(texts[::2], texts[1::2], strict=False))
    mode = values.get("key type", "")
    beats, unit = values.get("beat count", ""), values.get("time signature", "").partition("/")[2]
    return FileTags(
        beats=_quarter_notes(_small_number(beats), _small_number(unit) or 4),
        # The other types are 'neither' and 'both'.
        key=f"{values.get('key signature', '')} {mode}" if mode in ("major", "minor") else None,
        is_loop=True if _small_number(beats) else None,
    )


def _quarter_notes(beats: int, beat_unit: int) -> float:
    """Return the quarter notes in `beats`, where `beat_unit` is 8 for eighth notes."""
    return beats * 4 / beat_unit if beat_unit in (2, 8, 16) else float(beats)


def _small_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 6 else 0


def _midi_note(number: int) -> int | None:
    return number if 0 <= number <= 127 else None


def _caf_chunks(watched: WatchedFile, start: int) -> Iterator[Chunk]:
    position = start + 8
    for _ in range(MOST_CHUNKS):
        header = watched.read_at(position, 12)
        if len(header) < 12:
            return
        name, size = struct.unpack(">4sq", header)
        # Audio data of unknown size (-1) extends to the end of the file.
        if size < 0:
            return
        yield Chunk(name, position + 12, size)
        position += 12 + size
