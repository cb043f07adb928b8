"""The bytes decide what a file is: tags and junk in front of the audio, and odd headers."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest

from audio_files import encode, id3_with_picture, noise
from ingest import FIVE_FORMATS, RATE_HZ, Decode, three_seconds
from stem_dataset.audio.frames import mpeg_frame
from stem_dataset.discover import READABLE_SUFFIXES
from workplace import REPOSITORY

SMALL_TAG, LARGE_TAG = id3_with_picture(100), id3_with_picture(60_000)


def id3_stating(size_bytes: int, content: bytes) -> bytes:
    return b"ID3\3\0\0" + bytes(size_bytes >> shift & 0x7F for shift in (21, 14, 7, 0)) + content


TAGS = {
    "small": SMALL_TAG,
    "large": LARGE_TAG,
    "two": SMALL_TAG + LARGE_TAG,
    "longer than it states": id3_stating(1_000, LARGE_TAG),
    "states more than there is": id3_stating(2**28 - 1, bytes(500)),
    "zeros behind it": SMALL_TAG + bytes(3_000),
}


@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS.keys())
@pytest.mark.parametrize("suffix", FIVE_FORMATS)
def test_id3v2_tags_before_any_container_change_no_sample(decode: Decode, suffix: str, tag: bytes) -> None:
    plain = decode(three_seconds(suffix.upper()))
    tagged = decode(tag + three_seconds(suffix.upper()))
    assert tagged.source == plain.source
    np.testing.assert_array_equal(tagged.samples, plain.samples)


@pytest.mark.parametrize("junk", [b"\n", bytes(100), bytes(70_000), b"no audio " * 900, b"\xff" * 50], ids=len)
def test_junk_before_the_first_frame_of_an_mp3_changes_no_sample(decode: Decode, junk: bytes) -> None:
    np.testing.assert_array_equal(decode(junk + three_seconds("MP3")).samples, decode(three_seconds("MP3")).samples)


def bw64(rf64: bytes) -> bytes:
    """Return an RF64 as BW64, with a chunk of metadata before its data."""
    data = rf64.index(b"data")
    return b"BW64" + rf64[4:data] + b"chna" + struct.pack("<I", 4) + bytes(4) + rf64[data:]


def test_bw64_is_read_as_rf64(decode: Decode) -> None:
    plain = decode(three_seconds("RF64"))
    np.testing.assert_array_equal(decode(bw64(three_seconds("RF64"))).samples, plain.samples)


def wav_with_layout(wav: bytes, layout: bytes) -> bytes:
    """Return a WAV of soundfile's plain layout with another chunk `fmt `."""
    data = wav.index(b"data")
    content = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + wav[data:]
    return b"RIFF" + struct.pack("<I", len(content)) + content


ODD_GUID = bytes(range(14))
PCM_GUID = bytes.fromhex("00001000800000aa00389b71")


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize(
    "extension",
    [b"", b"\0\0", b"\2\0\x10\0", b"\x16\0\x10\0\3\0\0\0" + b"\0\0" + ODD_GUID],
    ids=["none", "of no bytes", "of two bytes", "with an odd GUID"],
)
def test_extensible_with_a_short_or_odd_extension_is_read_by_its_other_fields(
    decode: Decode, subtype: str, extension: bytes
) -> None:
    plain = encode(noise(4_800, channels=2), 48_000, "WAV", subtype)
    fields = b"\xfe\xff" + plain[22:36]
    np.testing.assert_array_equal(decode(wav_with_layout(plain, fields + extension)).samples, decode(plain).samples)


@pytest.mark.parametrize(("code", "subtype"), [(1, "PCM_16"), (3, "FLOAT"), (6, "ALAW"), (7, "ULAW")])
def test_extensible_as_it_should_be_keeps_its_subtype(decode: Decode, code: int, subtype: str) -> None:
    plain = encode(noise(4_800), 48_000, "WAV", subtype)
    data = plain.index(b"fmt ") + 8
    fields = (
        b"\xfe\xff" + plain[data + 2 : data + 16] + b"\x16\0\x10\0\4\0\0\0" + struct.pack("<HH", code, 0) + PCM_GUID
    )
    np.testing.assert_array_equal(decode(wav_with_layout(plain, fields)).samples, decode(plain).samples)


@pytest.mark.parametrize("tag", [1, 0x674F, 0x6771])
def test_ogg_stream_in_the_data_of_a_wav_is_an_ogg_stream(decode: Decode, tag: int) -> None:
    ogg = three_seconds("OGG")
    fields = struct.pack("<HHIIHH", tag, 1, RATE_HZ, 10_000, 1, 16)
    content = (
        b"WAVEfmt " + struct.pack("<I", 16) + fields + b"data" + struct.pack("<I", len(ogg)) + ogg + b"LIST\0\0\0\0"
    )
    wrapped = decode(b"RIFF" + struct.pack("<I", len(content)) + content)
    assert not wrapped.source.truncated
    np.testing.assert_array_equal(wrapped.samples, decode(ogg).samples)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_each_header_of_a_real_mp3_leads_to_the_next(rate_hz: int, channels: int) -> None:
    mp3 = encode(noise(rate_hz, channels), rate_hz, "MP3")
    position = samples = 0
    while position < len(mp3):
        frame = mpeg_frame(mp3[position : position + 4])
        assert frame is not None, (position, len(mp3))
        assert frame.rate_hz == rate_hz
        position += frame.size_bytes
        samples += frame.samples
    assert position == len(mp3)
    assert samples >= rate_hz


DOCS = (REPOSITORY / "docs" / "formats.md").read_text(encoding="utf-8")


def test_the_docs_name_every_suffix_that_is_taken() -> None:
    table = DOCS.partition("| container |")[2].partition("\n\n")[0]
    suffixes = {suffix for row in table.splitlines() for suffix in re.findall(r"`(\.\w+)`", row)}
    assert suffixes == READABLE_SUFFIXES
