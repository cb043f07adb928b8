"""Spoil valid audio files in the ways that disks, networks, editors and attackers spoil them."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soundfile

from av_files import FORMS, caf_with_aac, encoded

SUFFIX_OF = {
    **{"WAV": "wav", "WAVEX": "wav", "RF64": "rf64", "W64": "w64", "AIFF": "aiff", "FLAC": "flac", "MP3": "mp3"},
    **{"OGG": "ogg", "CAF": "caf", "AU": "au", "VOC": "voc"},
}  # what else libsndfile reads has no suffix that is ingested; under that of a WAV it is
NOT_READ_BACK = {"RAW", "SD2"}  # neither says what it is: one has no header, the other's is a resource fork
RATES_HZ = (44_100, 48_000, 8_000, 16_000, 22_050)
SOUND_S = 0.15
EXTREMES = (0, 1, 2, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF, 2**63 - 1, 2**64 - 1)
HEADER_BYTES = 128  # where the extremes are put
REAL_DECODERS = ("FLAC", "OGG", "MP3", "CAF ALAC", "FFMPEG")
READ_BY_LIBSNDFILE = ("mp2",)
SHARE_OF_DECODERS = 8  # times as many files as of the others, which hardly do more than copy

Mutation = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Sound:
    """A valid file."""

    format: str  # as the table at the end names it: container and coding
    suffix: str
    content: bytes


def valid_sounds() -> list[Sound]:
    """Return a short file of every container and coding that this libsndfile writes and can tell when it reads; what
    has a decoder worth the name comes several times."""
    sounds = []
    for container in soundfile.available_formats():
        for subtype in soundfile.available_subtypes(container):
            content = None if container in NOT_READ_BACK else written(container, subtype)
            if content is not None:
                suffix = "opus" if subtype == "OPUS" else SUFFIX_OF.get(container, "wav")
                sounds.append(Sound(f"{container} {subtype}", suffix, content))
    for form in FORMS:
        if form.codec not in READ_BY_LIBSNDFILE:
            sounds.append(Sound(f"FFMPEG {form}", form.suffix, encoded(form, SOUND_S)))
    sounds.append(Sound("FFMPEG aac in caf", "caf", caf_with_aac(SOUND_S)))
    tagged = written("MP3", "MPEG_LAYER_III") or b""
    aiffs = [Sound("AIFC", "aifc", sound.content) for sound in sounds if sound.format == "AIFF ULAW"]
    sounds += [*aiffs, Sound("MP3 with ID3v2", "mp3", id3_tag(2_000) + tagged)]
    return sounds + [s for s in sounds if s.format.startswith(REAL_DECODERS)] * (SHARE_OF_DECODERS - 1)


def written(container: str, subtype: str) -> bytes | None:
    """Return a sound in that format, in the first rate and number of channels that it can hold."""
    for rate_hz in RATES_HZ:
        for channels in (2, 1):
            t = np.arange(int(SOUND_S * rate_hz)) / rate_hz
            tone = np.stack([0.4 * np.sin(2 * np.pi * 330 * t)] * channels, axis=1)
            file = io.BytesIO()
            try:
                soundfile.write(file, tone, rate_hz, subtype, format=container)
                soundfile.read(io.BytesIO(file.getvalue()))
            except (soundfile.LibsndfileError, ValueError):
                continue
            return file.getvalue()
    return None


def id3_tag(size_bytes: int, stated_bytes: int | None = None) -> bytes:
    """Return an ID3v2 tag of zeros, whose size in 4 x 7 bits may be a lie."""
    stated = size_bytes if stated_bytes is None else stated_bytes
    return b"ID3\4\0\0" + bytes(stated >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size_bytes)


# -- mutations ---------------------------------------------------------------------------------------------------------


def flip_bits(content: bytes, dice: random.Random) -> bytes:
    spoilt = bytearray(content)
    for _ in range(dice.choice((1, 4, 32))):
        spoilt[dice.randrange(len(spoilt))] ^= 1 << dice.randrange(8)
    return bytes(spoilt)


def flip_header_bits(content: bytes, dice: random.Random) -> bytes:
    return flip_bits(content[:HEADER_BYTES], dice) + content[HEADER_BYTES:]


def overwrite_run(content: bytes, dice: random.Random) -> bytes:
    start, stop = span(content, dice)
    filling = dice.choice((bytes(stop - start), b"\xff" * (stop - start), dice.randbytes(stop - start)))
    return content[:start] + filling + content[stop:]


def truncate(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(dice.choice((HEADER_BYTES, len(content))))]


def insert_run(content: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(content))
    return content[:start] + dice.randbytes(dice.choice((1, 3, 64, 5_000))) + content[start:]


def delete_run(content: bytes, dice: random.Random) -> bytes:
    start, stop = span(content, dice)
    return content[:start] + content[stop:]


def extreme_field(content: bytes, dice: random.Random) -> bytes:
    """Set a number or two of the header to an extreme: sizes, counts of channels and frames, rates."""
    spoilt = bytearray(content)
    for _ in range(dice.choice((1, 1, 2))):
        width = dice.choice((2, 4, 4, 4, 8))
        value = dice.choice(EXTREMES) & (256**width - 1)
        start = dice.randrange(0, min(HEADER_BYTES, len(content)), 2)
        spoilt[start : start + width] = value.to_bytes(width, dice.choice(("little", "big")))
    return bytes(spoilt)


def swap_runs(content: bytes, dice: random.Random) -> bytes:
    """Change the places of two neighbours, as long as chunks are."""
    cuts = sorted(dice.randrange(0, len(content), 4) for _ in range(3))
    return content[: cuts[0]] + content[cuts[1] : cuts[2]] + content[cuts[0] : cuts[1]] + content[cuts[2] :]


def repeat_run(content: bytes, dice: random.Random) -> bytes:
    start, stop = span(content, dice)
    return content[:stop] + content[start:stop] * dice.choice((1, 2, 50)) + content[stop:]


def append_garbage(content: bytes, dice: random.Random) -> bytes:
    return content + dice.choice((dice.randbytes(3_000), bytes(3_000), content, content[: len(content) // 2]))


def prepend_id3(content: bytes, dice: random.Random) -> bytes:
    return id3_tag(dice.choice((0, 10, 300)), dice.choice((0, 300, 2**20, 2**28 - 1))) + content


def with_right_checksums(ogg: bytes) -> bytes:
    """Return an Ogg stream with the checksum of each page made anew: else damage never comes as far as the decoder."""
    pages = [b"OggS" + page for page in ogg.split(b"OggS")[1:]]
    zeroed = [page[:22] + bytes(4) + page[26:] for page in pages]
    return b"".join(page[:22] + ogg_checksum(page).to_bytes(4, "little") + page[26:] for page in zeroed)


def ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of RFC 3533: polynomial 0x04C11DB7, nothing reflected, nothing inverted."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C1_1DB7 if crc & 0x8000_0000 else crc << 1) & 0xFFFF_FFFF
    return crc


def span(content: bytes, dice: random.Random) -> tuple[int, int]:
    """Return a run of bytes: short ones are as likely as long ones."""
    start = dice.randrange(len(content))
    return start, min(len(content), start + dice.choice((1, 4, 16, 100, 1_000, len(content))))


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, flip_header_bits, overwrite_run, truncate, insert_run, delete_run, extreme_field, extreme_field),
    *(extreme_field, swap_runs, repeat_run, append_garbage, prepend_id3),
)


def mutated(sound: Sound, others: list[Sound], dice: random.Random) -> Sound:
    """Return `sound` after up to three mutations; now and then joined to another one, or under another suffix."""
    content, suffix = sound.content, sound.suffix
    for mutation in dice.sample(MUTATIONS, dice.choice((1, 1, 2, 3))):
        content = mutation(content, dice) or b"\0"
    if sound.format.startswith("OGG") and dice.random() < 0.8:
        content = with_right_checksums(content) or b"\0"
    if dice.random() < 0.05:
        content += dice.choice(others).content
    if dice.random() < 0.08:
        suffix = dice.choice(others).suffix
    return Sound(sound.format, suffix, content)
