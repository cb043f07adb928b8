"""Chained Ogg files, and what is said of their last page."""

from __future__ import annotations

import numpy as np
import pytest

from audio_files import encode, noise
from ingest import Decode

LINKS = {
    "vorbis 44100 mono": encode(noise(88_200), 44_100, "OGG", "VORBIS"),
    "vorbis 22050 stereo": encode(noise(33_075, channels=2), 22_050, "OGG", "VORBIS"),
    "opus 48000 stereo": encode(noise(48_000, channels=2), 48_000, "OGG", "OPUS"),
    "opus 24000 mono": encode(noise(24_000), 24_000, "OGG", "OPUS"),
}


@pytest.mark.parametrize(
    "names",
    [
        ["vorbis 44100 mono", "vorbis 44100 mono"],
        ["vorbis 44100 mono", "vorbis 22050 stereo"],
        ["opus 48000 stereo", "opus 24000 mono"],
        ["vorbis 22050 stereo", "opus 48000 stereo", "vorbis 44100 mono"],
    ],
    ids=" + ".join,
)
def test_each_link_of_a_chain_is_decoded_at_its_own_rate_and_channels(decode: Decode, names: list[str]) -> None:
    alone = [decode(LINKS[name]) for name in names]
    chain = decode(b"".join(LINKS[name] for name in names))
    whole = np.concatenate([link.samples for link in alone])
    if len({link.source.sample_rate_hz for link in alone}) == 1 and alone[0].source.sample_rate_hz != 48_000:
        assert len(chain.samples) == pytest.approx(len(whole), abs=1)  # one resampler goes through
    else:
        np.testing.assert_array_equal(chain.samples, whole)
    assert chain.source.duration_s == pytest.approx(sum(link.source.duration_s for link in alone), abs=1e-4)
    assert (chain.source.sample_rate_hz, chain.source.channels) == (
        alone[0].source.sample_rate_hz,
        alone[0].source.channels,
    )
    assert not chain.source.truncated


@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125), bytes(3_000), b"junk" * 500], ids=len)
def test_bytes_behind_the_last_page_are_no_damage(decode: Decode, tail: bytes) -> None:
    plain = decode(LINKS["vorbis 44100 mono"])
    tailed = decode(LINKS["vorbis 44100 mono"] + tail)
    assert tailed.source == plain.source
    np.testing.assert_array_equal(tailed.samples, plain.samples)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("frames", [100, 2_000, 10_000, 19_000, 48_000])
@pytest.mark.parametrize("has_end_flag", [True, False])
def test_whole_one_shot_of_any_length_is_not_truncated(
    decode: Decode, frames: int, subtype: str, has_end_flag: bool
) -> None:
    ogg = encode(noise(frames), 48_000, "OGG", subtype)
    if not has_end_flag:
        last = ogg.rindex(b"OggS")
        ogg = without_end_flag(ogg, last)
    whole = decode(ogg)
    assert not whole.source.truncated
    assert whole.source.frames >= frames * (1 if has_end_flag else 0.5)


def without_end_flag(ogg: bytes, last: int) -> bytes:
    """Return an Ogg stream whose last page, at `last`, lacks the end-of-stream bit; its checksum is made anew."""
    page = bytearray(ogg[last:])
    page[5] &= ~4
    page[22:26] = bytes(4)
    page[22:26] = crc_of(bytes(page)).to_bytes(4, "little")
    return ogg[:last] + bytes(page)


def crc_of(page: bytes) -> int:
    """Return the CRC-32 of RFC 3533: polynomial 0x04C11DB7, nothing reflected, nothing inverted."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C1_1DB7 if crc & 0x8000_0000 else crc << 1) & 0xFFFF_FFFF
    return crc


LONG = {
    "vorbis 44100 mono": encode(noise(6 * 44_100), 44_100, "OGG", "VORBIS"),
    "opus 48000 stereo": encode(noise(6 * 48_000, channels=2), 48_000, "OGG", "OPUS"),
}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("name", LONG)
def test_ogg_cut_in_a_page_is_truncated(decode: Decode, name: str, share: float) -> None:
    ogg = LONG[name]
    assert decode(ogg[: int(len(ogg) * share)]).source.truncated
    assert decode(LONG["vorbis 44100 mono"] + ogg[: int(len(ogg) * share)]).source.truncated
