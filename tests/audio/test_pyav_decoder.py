"""What libsndfile does not read, FFmpeg's libraries do, and nothing else gets in."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import random
from collections.abc import Callable

import av
import numpy as np
import pytest
import soundfile

from audio_files import Float32, encode
from av_files import FORMS, Form, caf_with_aac, encode_with_ffmpeg, encoded, sound
from ingest import Decode, ingest, three_seconds
from stem_dataset.audio.frames import mpeg_frame
from stem_dataset.clap.engine import AUDIO_LIBRARIES, library_versions
from stem_dataset.errors import BrokenFile, TooLong
from stem_dataset.workers.dask_worker import program_versions
from workplace import Workplace

BY_NAME = {str(form): form for form in FORMS}
M4A, ADTS, WAVPACK = BY_NAME["aac in m4a"], BY_NAME["aac in aac"], BY_NAME["wavpack in wv"]
FRONT = Form("m4a", "ipod", "aac", options=(("movflags", "faststart"),))  # its table of packets comes first


def channels_of(form: Form) -> list[int]:
    return [1] if form.codec == "real_144" else [1, 2]


BOTH = [pytest.param(form, n, id=f"{form}, {n} channels") for form in BY_NAME.values() for n in channels_of(form)]


@pytest.mark.parametrize(("form", "channels"), BOTH)
def test_every_container_and_codec_is_read_whole(decode: Decode, form: Form, channels: int) -> None:
    original = sound(3 * form.rate_hz, channels)
    read = decode(encoded(form, 3, channels))
    assert (read.source.sample_rate_hz, read.source.channels) == (form.rate_hz, channels)
    assert not read.source.truncated
    if form.is_lossless:
        wav = decode(encode(np.rint(original * 2**15).astype(np.int16), form.rate_hz, "WAV", "PCM_16"))
        assert read.source.frames == wav.source.frames
        np.testing.assert_array_equal(read.samples, wav.samples)
    else:
        assert read.source.duration_s == pytest.approx(3, abs=0.05)
        assert likeness(read.samples, decode(encode(original, form.rate_hz, "WAV", "FLOAT")).samples) > 0.5


def likeness(one: Float32, other: Float32) -> float:
    """Return the correlation of the loudness of two sounds in pieces of 20 ms: codecs delay by less."""
    levels = [np.abs(sound[: 140 * 960].reshape(-1, 960)).mean(axis=1) for sound in (one, other)]
    return float(np.corrcoef(*levels)[0, 1])


@pytest.mark.parametrize(
    ("name", "channels"),
    [("aac in m4a", 6), ("aac in m4a", 8), ("alac in m4a", 6), ("flac in mka", 6), ("flac in mka", 8)],
)
def test_surround_files_are_read(decode: Decode, name: str, channels: int) -> None:
    """Eight planes of samples crash PyAV's own way to numpy."""
    form = BY_NAME[name]
    read = decode(encoded(form, 3, channels))
    assert read.source.channels == channels
    assert read.source.duration_s == pytest.approx(3, abs=0.05)
    if form.is_lossless:
        steps = np.rint(sound(3 * form.rate_hz, channels) * 2**15).astype(np.int16)
        np.testing.assert_array_equal(read.samples, decode(encode(steps, form.rate_hz, "WAV", "PCM_16")).samples)


def test_apple_loop_is_read(decode: Decode) -> None:
    loop = decode(caf_with_aac(3, channels=2))
    assert (loop.source.channels, loop.source.truncated) == (2, False)
    assert loop.source.duration_s == pytest.approx(3, abs=0.05)
    np.testing.assert_array_equal(loop.samples[4_096:-4_096], decode(encoded(FRONT, 3, 2)).samples[4_096:-4_096])


CUT_FORMS = [form for form in BY_NAME.values() if form.suffix not in ("m4a", "mp4", "mov")]
CUTTABLE = [FRONT, *(form for form in CUT_FORMS if (form.suffix, form.codec) != ("caf", "alac"))]


@pytest.mark.parametrize("share", [0.31, 0.61, 0.91])
@pytest.mark.parametrize("form", CUTTABLE, ids=str)
def test_a_cut_file_is_truncated_in_every_container(decode: Decode, form: Form, share: float) -> None:
    content = encoded(form, 10)
    cut = decode(content[: int(len(content) * share)])
    assert cut.source.truncated
    assert cut.source.duration_s < 10 * share + 1


@pytest.mark.parametrize(
    "form", [M4A, BY_NAME["alac in m4a"], BY_NAME["pcm_s16le in mov"], BY_NAME["alac in caf"]], ids=str
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_file_whose_table_of_packets_was_at_its_end_is_broken(decode: Decode, form: Form, share: float) -> None:
    content = encoded(form, 3)
    with pytest.raises(soundfile.LibsndfileError, match=r"FFmpeg: .*; libsndfile: "):
        decode(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    "form", [form for form in BY_NAME.values() if form.codec in ("wavpack", "tta", "alac")], ids=str
)
def test_a_lossless_file_that_is_damaged_is_broken(decode: Decode, form: Form) -> None:
    content = bytearray(encoded(form, 10))
    for position in range(len(content) // 3, len(content) // 3 + 60):
        content[position] ^= 0x55
    with pytest.raises(soundfile.LibsndfileError):
        decode(bytes(content))


@pytest.mark.parametrize("form", [ADTS, BY_NAME["ac3 in ac3"], FRONT], ids=str)
def test_a_lossy_file_with_a_damaged_packet_plays_on(decode: Decode, form: Form) -> None:
    content = bytearray(encoded(form, 10))
    for position in range(len(content) // 2, len(content) // 2 + 60):
        content[position] ^= 0x55
    assert decode(bytes(content)).source.duration_s == pytest.approx(10, abs=0.2)


# -- MP3s that libsndfile ends early ----------------------------------------------------------------------------------


def vbr_without_xing() -> bytes:
    """Return an MP3 of ten seconds without a header that counts its frames, of which the first are small: silence."""
    samples = sound(10 * 44_100, 1)
    samples[: 2 * 44_100] = 0
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", 44_100, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.2
    ) as target:
        target.write(samples)
    mp3 = file.getvalue()
    first = mpeg_frame(mp3)
    assert first is not None
    return mp3[first.size_bytes :]


def test_mp3_that_libsndfile_ends_early_is_read_to_its_end(decode: Decode) -> None:
    mp3 = vbr_without_xing()
    assert soundfile.info(io.BytesIO(mp3)).frames < 5 * 44_100 or soundfile.info(io.BytesIO(mp3)).frames > 11 * 44_100
    assert decode(mp3).source.duration_s == pytest.approx(10, abs=0.1)


def test_two_mp3s_in_one_file_are_both_read(decode: Decode) -> None:
    assert decode(2 * three_seconds("MP3")).source.duration_s == pytest.approx(6, abs=0.1)


def test_aac_that_changes_its_rate_and_channels_is_resampled_from_each(decode: Decode) -> None:
    other = dataclasses.replace(ADTS, rate_hz=22_050)
    joined = decode(encoded(ADTS, 3, 1) + encoded(other, 2, 2))
    alone = decode(encoded(ADTS, 3, 1)), decode(encoded(other, 2, 2))
    assert joined.source.duration_s == pytest.approx(sum(file.source.duration_s for file in alone), abs=0.1)
    assert len(joined.samples) / 48_000 == pytest.approx(joined.source.duration_s, abs=0.001)
    assert (joined.source.sample_rate_hz, joined.source.channels) == (44_100, 1)


# -- what must not harm -----------------------------------------------------------------------------------------------


def test_metadata_that_is_not_utf_8_does_not_matter(decode: Decode) -> None:
    for form in (M4A, BY_NAME["flac in mka"], BY_NAME["wmav2 in wma"]):
        title = "Caf" + "X" * 20
        content = encode_with_ffmpeg(form, sound(44_100, 1), {"title": title, "artist": title})
        wide = "Caf".encode("utf-16-le") if form.container == "asf" else b"Caf"
        assert wide in content
        spoilt = content.replace(b"X" * 20, b"\xe9\xff" * 10).replace("X".encode("utf-16-le") * 20, b"\x00\xd8" * 20)
        assert spoilt != content
        np.testing.assert_array_equal(decode(spoilt).samples, decode(content).samples)


def test_too_long_is_told_before_anything_is_written(decode: Decode) -> None:
    with pytest.raises(TooLong, match="more than max_duration_s"):
        decode(encoded(M4A, 3), max_duration_s=2.9)
    assert decode(encoded(WAVPACK, 3), max_duration_s=3).source.duration_s == 3


@pytest.mark.parametrize(
    "form", [M4A, FRONT, ADTS, WAVPACK, BY_NAME["libopus in webm"], BY_NAME["wmav2 in wma"]], ids=str
)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()], ids=["EIO", "MemoryError"])
def test_error_of_the_machine_is_raised_and_never_a_shorter_file(decode: Decode, form: Form, error: Exception) -> None:
    content = encoded(form, 3)

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            wanted = len(content) if size is None or size < 0 else size
            if self.tell() < len(content) - 1_000 <= self.tell() + wanted:
                raise error
            return super().read(size)

    with pytest.raises(type(error)) as raised:
        decode(Failing(content))
    assert raised.value is error


PLAYLISTS = {
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile 'kick.wav'\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 97\n",
    "html": b"<html><body>" + b"not found " * 300,
}


@pytest.mark.parametrize("content", PLAYLISTS.values(), ids=PLAYLISTS.keys())
def test_lists_of_other_files_are_no_audio(decode: Decode, content: bytes) -> None:
    with pytest.raises(soundfile.LibsndfileError, match="Format not recognised"):
        decode(content)


MAGICS = [
    *(b"ID3\3\0\0\0\0\0\x10", b"\0\0\0\x20ftypM4A \0\0\0\0", b"\x1a\x45\xdf\xa3", b"MAC \x96\x0f\0\0", b"TTA1\1\0"),
    *(b"wvpk\0\1\0\0\x10\4", b"OggS\0\2", b"caff\0\1\0\0", b"MPCKSH", b"MP+\7\1\0\0\0", b"\x0b\x77", b"\xff\xf1"),
    *(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), b"\x7f\xfe\x80\x01", b"\xff\xfb\x90\x64", b"RIFF\0\1\0\0WAVE"),
    *(b"", b"\0\0\0\0moov", b"DTSHDHDR", b".RMF\0\0\0\x12", b"fLaC\0\0\0\x22"),
]


def words(dice: random.Random, size: int) -> bytes:
    text = ""
    while len(text) < size:
        text += dice.choice(("kick", "tune", "the", "snare", "to", "G", "\n", "http://", "128 bpm", "<b>", "é", "free"))
        text += " "
    return text.encode()[:size]


@pytest.mark.parametrize("make", [lambda dice, size: dice.randbytes(size), words], ids=["noise", "text"])
def test_a_thousand_files_of_noise_and_text_are_no_audio(
    decode: Decode, make: Callable[[random.Random, int], bytes]
) -> None:
    """Whatever their suffix, which no decoder sees, and whichever format they seem to begin as."""
    dice = random.Random(19)
    for number in range(1_000):
        magic = MAGICS[number % len(MAGICS)] if number % 2 else b""
        content = magic + make(dice, dice.choice((0, 10, 100, 3_000, 20_000)))
        with contextlib.suppress(soundfile.LibsndfileError, BrokenFile):
            decoded = decode(content)
            pytest.fail(f"file {number}, {content[:20]!r}, became {decoded.source}")


def test_noise_behind_frame_headers_is_no_audio(decode: Decode) -> None:
    dice = random.Random(5)
    for header in (b"\xff\xf1\x50\x80\x20\x1f\xfc", b"\x0b\x77\0\0\x1e\x40"):
        for _ in range(50):
            content = b"".join(header + dice.randbytes(dice.randrange(50, 900)) for _ in range(30))
            with pytest.raises((soundfile.LibsndfileError, BrokenFile)):
                decode(content)


# -- what is kept of it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "decoder"),
    [
        ("a.wav", three_seconds("WAV"), "libsndfile"),
        ("a.mp3", three_seconds("MP3"), "libsndfile"),
        ("twice.mp3", 2 * three_seconds("MP3"), "ffmpeg"),
        ("a.m4a", encoded(M4A, 3), "ffmpeg"),
        ("m4a in truth.wav", encoded(M4A, 3), "ffmpeg"),
    ],
)
def test_the_features_name_the_decoder(workplace: Workplace, name: str, content: bytes, decoder: str) -> None:
    assert json.loads(ingest(workplace, content, name).metadata.features)["decoder"] == decoder


def test_the_provenance_names_the_version_of_each_decoder() -> None:
    assert library_versions(*AUDIO_LIBRARIES)["av"] == av.__version__
    assert ("av", av.__version__) in program_versions()  # a Dask worker's must be the same
