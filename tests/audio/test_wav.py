"""The standardised WAV, written and read."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_files import encode, id3_with_picture, noise, with_sizes, with_total_samples
from ingest import (
    FIVE_FORMATS,
    FULL_SCALE,
    RATE_HZ,
    TAILS,
    WINDOW,
    Decode,
    Decoded,
    Steps,
    clap_quantises,
    slice_starts,
    three_seconds,
)
from patching import replace_name
from stem_dataset.audio.wav import KEPT_SAMPLES, StandardisedAudio
from stem_dataset.audio.windowing import cut_windows
from stem_dataset.errors import BrokenFile, NoSamples, NotFinite


def test_flac_of_unknown_length_decodes_to_all_its_frames(decode: Decode) -> None:
    flac = three_seconds("FLAC")
    unknown = decode(with_total_samples(flac, 0))
    assert unknown.source.frames == 3 * RATE_HZ
    np.testing.assert_array_equal(unknown.samples, decode(flac).samples)


def test_flac_that_claims_ten_hours_and_holds_three_seconds_is_ingested(decode: Decode) -> None:
    lying = decode(with_total_samples(three_seconds("FLAC"), 36_000 * RATE_HZ))
    assert lying.source.frames == 3 * RATE_HZ
    assert lying.source.duration_s == 3
    assert len(lying.samples) == 3 * 48_000


@pytest.mark.parametrize("claimed_bytes", [300_000, 1_000_000_000, 4_000_000_000])
def test_wav_that_claims_more_than_it_holds_is_ingested_as_truncated(decode: Decode, claimed_bytes: int) -> None:
    lying = decode(with_sizes(three_seconds("WAV"), riff=claimed_bytes + 36, data=claimed_bytes))
    assert lying.source.frames == 3 * RATE_HZ
    assert lying.source.truncated


def test_mp3_behind_a_large_cover_has_its_own_length_and_is_not_truncated(decode: Decode) -> None:
    mp3 = three_seconds("MP3")
    tagged = decode(id3_with_picture(300_000) + mp3)
    assert (tagged.source.frames, tagged.source.truncated) == (3 * RATE_HZ, False)
    np.testing.assert_array_equal(tagged.samples, decode(mp3).samples)


def test_half_an_mp3_behind_a_large_cover_is_truncated(decode: Decode) -> None:
    mp3 = three_seconds("MP3")
    assert decode(id3_with_picture(300_000) + mp3[: len(mp3) // 2]).source.truncated


class FailingFile(io.BytesIO):
    """An open file of which `fails(file, bytes_wanted)` says whether a call raises `error`."""

    def __init__(self, content: bytes, error: Exception, fails: Callable[[FailingFile, int], bool]) -> None:
        super().__init__(content)
        self.size_bytes = len(content)
        self.error = error
        self.fails = fails
        self.calls = 0
        self.failures = 0

    def _call(self, bytes_wanted: int = 0) -> None:
        self.calls += 1
        if self.fails(self, bytes_wanted):
            self.failures += 1
            raise self.error

    def readinto(self, buffer: Any) -> int:
        self._call(len(buffer))
        return super().readinto(buffer)

    def read(self, size: int | None = -1) -> bytes:
        self._call()
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._call()
        try:
            return super().seek(offset, whence)
        except ValueError:  # what a file on disk says of a position before its start
            raise OSError(errno.EINVAL, "Invalid argument") from None

    def tell(self) -> int:
        self._call()
        return super().tell()


def beyond_the_middle(file: FailingFile, bytes_wanted: int) -> bool:
    position = io.BytesIO.tell(file)
    return bytes_wanted > 0 and min(position + bytes_wanted, file.size_bytes) > file.size_bytes // 2


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()], ids=["EIO", "MemoryError"])
@pytest.mark.parametrize("suffix", FIVE_FORMATS)
def test_error_half_way_is_raised_and_never_a_shorter_file(
    decode: Decode, suffix: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "BLOCK_VALUES", 4_096)
    file = FailingFile(three_seconds(suffix.upper()), error, beyond_the_middle)
    with pytest.raises(type(error)) as raised:
        decode(file)
    assert raised.value is error
    assert file.failures


def outcome_of(decode: Decode, file: FailingFile) -> Decoded | Exception:
    try:
        return decode(file)
    except Exception as error:
        return error


@settings(deadline=None, max_examples=60)
@given(suffix=st.sampled_from(FIVE_FORMATS), failing_call=st.integers(1, 60))
def test_single_call_that_fails_is_not_forgotten(decode: Decode, suffix: str, failing_call: int) -> None:
    """Whichever of libsndfile's reads and seeks it is, and though all later ones succeed."""
    error = OSError(errno.EIO, "Input/output error")
    file = FailingFile(three_seconds(suffix.upper()), error, lambda file, _: file.calls == failing_call)
    outcome = outcome_of(decode, file)
    if file.failures:
        assert outcome is error
    else:
        assert isinstance(outcome, Decoded)
        assert outcome.source.frames == 3 * RATE_HZ


TRUNCATABLE = [
    *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM")),
    *(("AIFF", subtype) for subtype in ("PCM_16", "FLOAT")),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AU", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", None),
]


@pytest.mark.parametrize(("container", "subtype"), TRUNCATABLE)
def test_half_a_file_is_ingested_with_what_it_holds_as_truncated(
    decode: Decode, container: str, subtype: str | None
) -> None:
    content = three_seconds(container, subtype)
    half = decode(content[: len(content) // 2])
    assert half.source.truncated
    assert 0.5 < half.source.duration_s < 1.8  # an ogg of 3 s has few pages
    assert len(half.samples) == pytest.approx(half.source.duration_s * 48_000, abs=1)
    assert half.peak > 0.4


@pytest.mark.parametrize(
    ("container", "subtype"), [*TRUNCATABLE, ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("FLAC", None)]
)
def test_whole_file_is_not_truncated(decode: Decode, container: str, subtype: str | None) -> None:
    whole = decode(three_seconds(container, subtype))
    assert not whole.source.truncated
    assert whole.source.duration_s == pytest.approx(3, rel=0.02)  # ADPCM comes in whole blocks


@pytest.mark.parametrize("frames", [1, 100, 1_152, 20_000])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_whole_mp3_of_any_rate_and_length_is_not_truncated(decode: Decode, rate_hz: int, frames: int) -> None:
    whole = decode(encode(noise(frames), rate_hz, "MP3"))
    assert (whole.source.frames, whole.source.truncated) == (frames, False)


def damaged(flac: bytes, share: float) -> bytes:
    """Return `flac` with 50 bytes spoilt at that share of its length."""
    start = int(len(flac) * share)
    return flac[:start] + bytes(byte ^ 0x55 for byte in flac[start : start + 50]) + flac[start + 50 :]


@pytest.mark.parametrize("tail", [b"", *TAILS.values()], ids=["no tail", *TAILS])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("harm", [damaged, lambda flac, share: flac[: int(len(flac) * share)]], ids=["damaged", "cut"])
def test_flac_that_is_cut_or_damaged_is_broken_with_a_tail_and_without(
    decode: Decode, harm: Callable[[bytes, float], bytes], share: float, tail: bytes
) -> None:
    with pytest.raises(soundfile.LibsndfileError):
        decode(harm(three_seconds("FLAC"), share) + tail)


@settings(deadline=None, max_examples=100)
@given(form=st.sampled_from(TRUNCATABLE), length=st.integers(0, 400))
def test_header_cut_anywhere_is_never_the_machines_fault(
    tmp_path_factory: pytest.TempPathFactory, decode: Decode, form: tuple[str, str | None], length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(three_seconds(*form)[:length])
    with open(path, "rb") as file, contextlib.suppress(soundfile.LibsndfileError, BrokenFile):
        decode(file)


INFO_CHUNK = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(three_seconds("WAV") + INFO_CHUNK, id="chunk behind the end of RIFF"),
        pytest.param(with_sizes(three_seconds("WAV") + INFO_CHUNK, riff=3 * 2 * RATE_HZ + 36 + 34), id="chunk in RIFF"),
        pytest.param(three_seconds("WAV") + INFO_CHUNK[:20], id="cut chunk behind the data"),
        pytest.param(three_seconds("WAV") + bytes(128), id="zeros behind the data"),
        pytest.param(with_sizes(three_seconds("WAV"), riff=1_000_000), id="RIFF too large"),
        pytest.param(with_sizes(three_seconds("WAV"), riff=10), id="RIFF too small"),
        pytest.param(with_sizes(three_seconds("WAV"), riff=0), id="RIFF zero"),
    ],
)
def test_wav_with_whole_data_chunk_is_not_truncated_whatever_surrounds_it(decode: Decode, content: bytes) -> None:
    whole = decode(content)
    assert (whole.source.frames, whole.source.truncated) == (3 * RATE_HZ, False)


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        pytest.param(0xFFFF_FFFF, 0xFFFF_FFFF, id="ffmpeg"),
        pytest.param(0x7FFF_F024, 0x7FFF_F000, id="sox"),
        pytest.param(0x8000_0024, 0x8000_0000, id="arecord"),
        pytest.param(8, 0, id="libsndfile, not closed"),
    ],
)
def test_wav_written_to_a_pipe_is_whole_and_not_truncated(decode: Decode, riff: int, data: int) -> None:
    piped = decode(with_sizes(three_seconds("WAV"), riff=riff, data=data))
    assert (piped.source.frames, piped.source.truncated) == (3 * RATE_HZ, False)


@pytest.mark.parametrize("rate_hz", [96_000, 192_000, 384_000])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_few_samples_at_a_high_rate_give_at_least_one(decode: Decode, rate_hz: int, frames: int) -> None:
    short = decode(encode(np.full(frames, 0.5), rate_hz, "WAV", "FLOAT"))
    assert len(short.samples) >= 1
    assert 0.2 < short.peak <= 0.75


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3"])
def test_file_of_exactly_the_longest_duration_is_ingested(decode: Decode, container: str) -> None:
    assert decode(three_seconds(container), max_duration_s=3.0).source.duration_s == 3


@pytest.mark.parametrize("container", ["WAV", "AIFF", "OGG", "W64", "RF64", "AU", "CAF"])
def test_header_without_audio_is_no_samples(decode: Decode, container: str) -> None:
    with pytest.raises(NoSamples, match=container):
        decode(encode(np.zeros(0), RATE_HZ, container))


@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
@pytest.mark.parametrize("position", [0, 1_000, -1], ids=["first", "inside", "last"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_or_infinity_in_one_channel_is_not_finite(
    decode: Decode, value: float, position: int, rate_hz: int
) -> None:
    samples = noise(2_000, channels=2)
    samples[position, 1] = value
    with pytest.raises(NotFinite):
        decode(encode(samples, rate_hz, "WAV", "FLOAT"))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_infinities_that_cancel_out_are_not_finite(decode: Decode) -> None:
    samples = noise(2_000, channels=2)
    samples[1_000] = math.inf, -math.inf
    with pytest.raises(NotFinite):
        decode(encode(samples, 48_000, "WAV", "FLOAT"))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
@pytest.mark.parametrize("value", [2.0, 1e30, 3e38])
def test_huge_finite_values_clip_at_full_scale(decode: Decode, value: float, rate_hz: int) -> None:
    square = np.where(np.arange(rate_hz) // 100 % 2, value, -value).astype(np.float32)
    clipped = decode(encode(square, rate_hz, "WAV", "FLOAT"))
    assert clipped.peak == 1
    assert set(clipped.steps[1_000:-1_000:1_000]) <= {-FULL_SCALE, FULL_SCALE - 1}


def rounded_once(values: npt.NDArray[Any]) -> Steps:
    steps = np.clip(np.rint(values.astype(np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    return np.asarray(steps, np.int64)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 32_000, 44_100, 88_200, 96_000, 192_000, 384_000])
@settings(deadline=None, max_examples=12)
@given(frames=st.integers(200, 6_000), channels=st.integers(1, 3), block_values=st.integers(1, 7_000))
def test_resampling_in_blocks_of_any_size_equals_soxr_in_one_piece(
    decode: Decode, rate_hz: int, frames: int, channels: int, block_values: int
) -> None:
    samples = noise(frames, channels, seed=frames) * np.float32(2.4)  # some beyond full scale
    with pytest.MonkeyPatch.context() as patch:
        replace_name(patch, "BLOCK_VALUES", max(channels, block_values))
        streamed = decode(encode(samples, rate_hz, "WAV", "FLOAT"))
    mono = (samples.astype(np.float64).sum(axis=1) / channels).astype(np.float32)
    one_shot = soxr.resample(mono, rate_hz, 48_000, "HQ")
    np.testing.assert_array_equal(streamed.steps, rounded_once(one_shot))


def test_blocks_of_a_second_equal_blocks_of_ten(decode: Decode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stem_dataset.audio.libsndfile_decoder.BLOCK_S", 10)
    ten = decode(three_seconds("WAV"))
    monkeypatch.setattr("stem_dataset.audio.libsndfile_decoder.BLOCK_S", 1)
    np.testing.assert_array_equal(decode(three_seconds("WAV")).samples, ten.samples)


@settings(deadline=None, max_examples=20)
@given(steps=st.lists(st.integers(-FULL_SCALE, FULL_SCALE - 1), min_size=1, max_size=300))
def test_24_bit_mono_at_48_khz_comes_back_bit_for_bit(decode: Decode, steps: list[int]) -> None:
    pcm = np.array([*steps, -FULL_SCALE, FULL_SCALE - 1], np.int32)
    same = decode(encode(pcm << 8, 48_000, "WAV", "PCM_24"))
    np.testing.assert_array_equal(same.steps, pcm)


@pytest.mark.parametrize("channels", [2, 3, 16])
def test_mono_is_the_plain_mean_of_all_channels(decode: Decode, channels: int) -> None:
    steps = np.random.default_rng(1).integers(-(2**15), 2**15, (500, channels))
    mean = [np.float32(Fraction(int(frame.sum()), channels * 2**15)) for frame in steps]
    mono = decode(encode(steps.astype(np.int16), 48_000, "WAV", "PCM_16"))
    np.testing.assert_array_equal(mono.steps, rounded_once(np.array(mean)))


@pytest.mark.parametrize("gain", [0.001, 0.1, 0.99])
def test_gain_is_never_changed(decode: Decode, gain: float) -> None:
    tone = gain * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)
    assert decode(encode(tone, RATE_HZ, "WAV", "FLOAT")).peak == pytest.approx(gain, rel=1e-3)


@settings(deadline=None, max_examples=20)
@given(
    lengths=st.lists(st.integers(0, 3_000), min_size=1, max_size=6),
    kept_samples=st.sampled_from([0, 4_000, KEPT_SAMPLES]),
)
def test_samples_equal_the_wav_whatever_the_pieces_written_from_memory_and_from_disk(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], kept_samples: int
) -> None:
    folder = tmp_path_factory.mktemp("wav")
    pieces = [noise(length, seed=seed)[:, 0] * np.float32(2.4) for seed, length in enumerate(lengths)]
    whole = np.concatenate(pieces)
    with pytest.MonkeyPatch.context() as patch, StandardisedAudio(folder) as audio:
        replace_name(patch, "KEPT_SAMPLES", kept_samples)
        for piece in pieces:
            audio.append(piece)
        audio.finish()
        assert sum(map(len, audio.kept)) == (len(whole) if len(whole) <= kept_samples else 0)
        samples = audio.samples()
        middle = audio.samples(len(whole) // 3, len(whole) // 2)
        audio.publish(folder / "a.wav")
    np.testing.assert_array_equal(samples * FULL_SCALE, rounded_once(whole))
    np.testing.assert_array_equal(samples, soundfile.read(folder / "a.wav", dtype="float32")[0])
    np.testing.assert_array_equal(middle, samples[len(whole) // 3 : len(whole) // 2])


@pytest.mark.parametrize("length", [1, 1_000, WINDOW, WINDOW + 1, 1_200_007])
@pytest.mark.parametrize("max_windows", [1, 2, 8])
def test_windows_are_plain_slices_quantised_as_clap_does_it(tmp_path: Path, length: int, max_windows: int) -> None:
    with StandardisedAudio(tmp_path) as audio:
        audio.append(noise(length)[:, 0] * np.float32(2.4))
        audio.finish()
        samples = audio.samples()
        windows = cut_windows(audio, max_windows)
    expected = [samples[start : start + WINDOW] for start in slice_starts(length, max_windows)]
    assert [window.dtype for window in windows] == [np.int16] * len(expected)
    for window, piece in zip(windows, expected, strict=True):
        np.testing.assert_array_equal(window, clap_quantises(piece))
