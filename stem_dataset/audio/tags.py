"""Read what a file says about its music: tempo, beats, key, root note, loop or one-shot.

Nothing here blames a file. Damaged tags are ignored; `music.file_tags` decides whether to believe the rest.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterable
from typing import BinaryIO, cast

from tinytag import TinyTag, TinyTagException

from stem_dataset.audio.formats import AudioFormat, Chunk, riff_chunks
from stem_dataset.audio.sampler_chunks import tags_in_aiff, tags_in_caf, tags_in_wav
from stem_dataset.audio.source import FilePart, WatchedFile
from stem_dataset.datatypes import FileTags

# The range of tempi is that of names.
LEAST_BPM, MOST_BPM = 30.0, 300.0
BPM_TEXT = re.compile(r"\s*([0-9]{2,3}(?:[.,][0-9]{1,20})?)\s*(?:bpm)?\s*", re.IGNORECASE)
MOST_KEY_CHARACTERS = 32

# The names that tinytag gives to these tags, the standard ones first: TBPM, tmpo, BPM, WM/BeatsPerMinute; TKEY, KEY,
# INITIALKEY, WM/InitialKey. The rest are names of free text fields.
BPM_NAMES = ("bpm", "tempo")
KEY_NAMES = ("initial_key", "initialkey", "key")

# The kinds whose text tags tinytag reads. A WAV or AIFF holds an ID3 tag as a chunk, and any file may begin with one.
TAGGED_KINDS = frozenset({"FLAC", "OGG", "MP4", "ASF"})
ID3_CHUNKS = (b"ID3 ", b"id3 ")

# Longer fields are cut. In practice, only pictures and lyrics are longer.
MOST_FIELD_BYTES = 2**20
# No tags of real files need more than a tenth of these. Hostile ones would take minutes and gigabytes.
MOST_READ_BYTES = 2**24
MOST_READS = 4_000


def read_tags(watched: WatchedFile, found: AudioFormat, frames: int) -> FileTags:
    """Return what the file states, from all its tags; raises OSError or MemoryError from reading it.

    `frames` is the length of its audio. Where tags differ, text tags come first, since people edit those.
    """
    parts: list[FileTags] = []
    size = watched.size()
    if found.kind in TAGGED_KINDS:
        parts.append(_text_tags(FilePart(watched, found.start, found.stop or size)))
    if watched.read_at(0, 3) == b"ID3":
        parts.append(_text_tags(FilePart(watched, 0, size)))
    if found.kind in ("WAV", "RF64", "AIFF"):
        parts += _tags_in_chunks(watched, found, frames)
    if found.kind == "CAF":
        parts += tags_in_caf(watched, found.start)
    return _first_of_each(parts)


def _tags_in_chunks(watched: WatchedFile, found: AudioFormat, frames: int) -> list[FileTags]:
    byte_order = "<" if found.kind != "AIFF" and watched.read_at(found.start, 4) != b"RIFX" else ">"
    # Of chunks with the same name, the first counts.
    chunks = {chunk.name: chunk for chunk in reversed(riff_chunks(watched, found.start, byte_order, last=None))}
    id3 = [_text_tags(_part(watched, chunks[name])) for name in ID3_CHUNKS if name in chunks]
    if found.kind == "AIFF":
        return id3 + tags_in_aiff(watched, chunks)
    return id3 + tags_in_wav(watched, chunks, byte_order, frames)


def _part(watched: WatchedFile, chunk: Chunk) -> FilePart:
    return FilePart(watched, chunk.start, chunk.start + chunk.size)


def _first_of_each(parts: Iterable[FileTags]) -> FileTags:
    """Return tags of which each is the first valid one of `parts`."""
    checked = [dataclasses.replace(tags, bpm=_in_range(tags.bpm), beats=_positive(tags.beats)) for tags in parts]
    names = [field.name for field in dataclasses.fields(FileTags)]
    return FileTags(
        **{
            name: next((value for tags in checked if (value := getattr(tags, name)) is not None), None)
            for name in names
        }
    )


def _in_range(bpm: float | None) -> float | None:
    return bpm if bpm is not None and LEAST_BPM <= bpm <= MOST_BPM else None  # NaN is not


def _positive(beats: float | None) -> float | None:
    return beats if beats is not None and 0 < beats < math.inf else None


# -- text tags --------------------------------------------------------------------------------------------------------


class _BoundedFile:
    """A file object for tinytag that bounds what it may read.

    Beyond the bounds, the file seems to end.
    """

    def __init__(self, part: FilePart) -> None:
        self.part = part
        self.reads = 0
        self.read_bytes = 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS or self.read_bytes > MOST_READ_BYTES:
            return b""
        end = self.part.tell() + size
        content = self.part.read(min(size, MOST_FIELD_BYTES))
        self.read_bytes += len(content)
        if size > MOST_FIELD_BYTES:
            # Skip the rest of the field, so that the next read starts after it.
            self.part.seek(end)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.part.seek(offset, whence)

    def tell(self) -> int:
        return self.part.tell()


def _text_tags(part: FilePart) -> FileTags:
    """Return the tempo and the key in ID3, Vorbis comments, MP4 atoms or ASF."""
    try:
        other = TinyTag.get(file_obj=cast(BinaryIO, _BoundedFile(part)), duration=False).other
    except TinyTagException as error:
        part.check()
        # tinytag wraps all errors.
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None
        return FileTags()
    part.check()
    tempi = [_bpm_of(text) for name in BPM_NAMES for text in other.get(name, [])]
    keys = [text.strip() for name in KEY_NAMES for text in other.get(name, [])]
    return FileTags(
        bpm=next((bpm for bpm in tempi if bpm is not None), None),
        key=next((key for key in keys if 0 < len(key) <= MOST_KEY_CHARACTERS), None),
    )


def _bpm_of(text: str) -> float | None:
    match = BPM_TEXT.fullmatch(text)
    return _in_range(float(match[1].replace(",", "."))) if match else None
