"""`truncated` only where it is true."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from audio_files import encode, noise, with_sizes
from ingest import RATE_HZ, TAILS, Decode, three_seconds
from stem_dataset.audio.frames import mpeg_frame


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM")),
        *(("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16")),
        *(("AU", "PCM_16"), ("CAF", "PCM_16"), ("VOC", "PCM_16"), ("MP3", None)),
    ],
)
@pytest.mark.parametrize("seconds", [0.5, 3])
def test_a_file_cut_anywhere_is_truncated(
    decode: Decode, container: str, subtype: str | None, share: float, seconds: float
) -> None:
    rate_hz = 48_000 if subtype == "OPUS" else RATE_HZ
    content = encode(noise(int(seconds * rate_hz)), rate_hz, container, subtype)
    assert not decode(content).source.truncated
    assert decode(content[: int(len(content) * share)]).source.truncated


@pytest.mark.parametrize("missing", [1, 16, 28, 44])
@pytest.mark.parametrize("seconds", [0.05, 0.5, 3])
def test_a_data_size_of_up_to_44_bytes_too_many_is_no_cut(decode: Decode, missing: int, seconds: float) -> None:
    wav = encode(noise(int(seconds * RATE_HZ)), RATE_HZ, "WAV", "PCM_16")
    counted = decode(with_sizes(wav, data=len(wav) - 44 + missing))
    assert not counted.source.truncated
    np.testing.assert_array_equal(counted.samples, decode(wav).samples)


@pytest.mark.parametrize(("missing_s", "is_cut"), [(0.04, False), (0.06, True)])
def test_fifty_milliseconds_of_a_long_file_are_a_cut(decode: Decode, missing_s: float, is_cut: bool) -> None:
    wav = encode(noise(10 * RATE_HZ), RATE_HZ, "WAV", "PCM_16")
    assert decode(wav[: len(wav) - 2 * int(missing_s * RATE_HZ)]).source.truncated == is_cut


def test_one_percent_of_a_short_file_is_a_cut(decode: Decode) -> None:
    wav = encode(noise(RATE_HZ // 2), RATE_HZ, "WAV", "PCM_16")
    assert decode(wav[: int(len(wav) * 0.98)]).source.truncated


def without_xing(mp3: bytes) -> bytes:
    """Return an MP3 without its first frame, which holds no audio and counts the others."""
    first = mpeg_frame(mp3)
    assert first is not None
    assert b"Xing" in mp3[: first.size_bytes] or b"Info" in mp3[: first.size_bytes]
    return mp3[first.size_bytes :]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_mp3_without_xing_is_truncated_where_its_last_frame_is_cut(decode: Decode, share: float) -> None:
    mp3 = without_xing(three_seconds("MP3"))
    assert not decode(mp3).source.truncated
    for more in range(4):  # also within a header
        assert decode(mp3[: int(len(mp3) * share) + more * 97]).source.truncated


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())
def test_a_tail_behind_an_mp3_is_no_cut(decode: Decode, tail: bytes) -> None:
    for mp3 in (three_seconds("MP3"), without_xing(three_seconds("MP3"))):
        assert not decode(mp3 + tail).source.truncated


def with_vbri(mp3: bytes, frames: int) -> bytes:
    """Return an MP3 whose first frame counts the others as Fraunhofer's encoder does."""
    first = mpeg_frame(mp3)
    assert first is not None
    header = mp3[:36] + b"VBRI" + struct.pack(">HHHII", 1, 0, 0, len(mp3), frames)
    return header.ljust(first.size_bytes, b"\0") + mp3[first.size_bytes :]


@pytest.mark.parametrize(("share", "is_cut"), [(0, False), (0.1, True), (0.5, True)])
def test_vbri_counts_the_frames_that_should_be_there(decode: Decode, share: float, is_cut: bool) -> None:
    mp3 = three_seconds("MP3")
    frames, position = [], 0
    while position < len(mp3):
        frame = mpeg_frame(mp3[position : position + 4])
        assert frame is not None
        frames.append(position)
        position += frame.size_bytes
    kept = frames[int((len(frames) - 1) * (1 - share))] if share else len(mp3)  # between two frames
    assert decode(with_vbri(mp3, len(frames) - 1)[:kept]).source.truncated == is_cut
