"""Audio that lies, breaks or is odd: what is read from it, and the WAV and the windows that come of it."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import itertools
import json
import math
import os
import struct
import sys
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

import prepare_dataset_sql as product
from audio_files import (
    ODD_BUT_VALID,
    POOR,
    encode,
    id3_with_picture,
    noise,
    with_sizes,
    with_total_samples,
)
from conftest import Workplace
from fake_clap import FakeClap
from patching import replace_name
from prepare_dataset_sql import DatasetPreparer
from stem_dataset.audio.decoders import BLOCK_S
from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import KEPT_SAMPLES, StandardisedAudio
from stem_dataset.audio.windowing import cut_windows, window_starts
from stem_dataset.clap.embed import embed_windows
from stem_dataset.datatypes import FoundFile, ProcessedFile, SourceFormat
from stem_dataset.errors import BrokenFile, MachineFault, NoSamples, NotFinite, TooLong

Float32 = npt.NDArray[np.float32]
Steps = npt.NDArray[np.int64]
Decode = Callable[..., "Decoded"]

RATE_HZ = 44_100
FULL_SCALE = 2**23  # steps of 24 bit
WINDOW = 480_000
SIX_HOURS_S = 21_600.0
XING_WARNING = "Xing stream size off"

# ------------------------------------------------------------------------------------------------------------ material


@dataclass
class Decoded:
    """What `standardise` made of a file."""

    source: SourceFormat
    samples: Float32
    peak: float

    @property
    def steps(self) -> Steps:
        """The samples as whole numbers of 24 bit."""
        return np.asarray(self.samples.astype(np.float64) * FULL_SCALE, np.int64)


@pytest.fixture(scope="module")
def decode(tmp_path_factory: pytest.TempPathFactory) -> Decode:
    """Standardise a file, given as bytes or as an open file."""
    folder = tmp_path_factory.mktemp("scratch")

    def decode_in_folder(content: bytes | IO[bytes], max_duration_s: float = SIX_HOURS_S) -> Decoded:
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        with StandardisedAudio(folder) as audio:
            source = standardise(file, audio, max_duration_s)
            return Decoded(source, audio.samples(), audio.peak)

    return decode_in_folder


@functools.cache
def three_seconds(container: str, subtype: str | None = None) -> bytes:
    rate_hz = {"OPUS": 48_000, "GSM610": 8_000}.get(subtype or "", RATE_HZ)
    return encode(noise(3 * rate_hz), rate_hz, container, subtype)


def process(workplace: Workplace, path: Path) -> ProcessedFile | None:
    """Run `_process_file` here on a file in the workplace's input."""
    status = path.stat()
    job = DatasetPreparer(workplace.config(), show_progress=False)._job
    return product._process_file(FoundFile(str(path), status.st_size, status.st_mtime_ns), job)


def ingest(workplace: Workplace, content: bytes, name: str) -> ProcessedFile:
    """Run `_process_file` here on a file that must not be quarantined."""
    path = workplace.input / name
    path.write_bytes(content)
    processed = process(workplace, path)
    assert processed is not None, workplace.quarantined()
    return processed


def issues(processed: ProcessedFile) -> list[str]:
    found: list[str] = json.loads(processed.metadata.features)["quality_issues"]
    return found


# ---------------------------------------------------------------------------------------------------- headers that lie


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


# --------------------------------------------------------------------------------------------------------------- names

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such long or undecodable paths")


@linux_only
@pytest.mark.parametrize("container", ["WAV", "MP3"])
def test_path_over_1024_bytes_is_read(workplace: Workplace, container: str) -> None:
    folder = workplace.input.joinpath(*["long " * 40] * 6)
    folder.mkdir(parents=True)
    path = folder / f"kick.{container.lower()}"
    path.write_bytes(three_seconds(container))
    assert len(os.fsencode(path)) > 1_024
    processed = process(workplace, path)
    assert processed is not None
    assert processed.metadata.duration_s == 3


@linux_only
def test_long_path_and_undecodable_name_become_rows_of_a_run(workplace: Workplace) -> None:
    folder = workplace.input.joinpath(*["long " * 40] * 6)
    folder.mkdir(parents=True)
    undecodable = os.fsdecode(b"kick \xff\xfe \xe4.wav")
    for path in (folder / "kick.wav", workplace.input / undecodable):
        path.write_bytes(three_seconds("WAV"))
    workplace.run()
    assert workplace.originals() == sorted([undecodable, str((folder / "kick.wav").relative_to(workplace.input))])


# ----------------------------------------------------------------------------------------------- a disk or memory fails

FIVE_FORMATS = ("wav", "flac", "mp3", "ogg", "aiff")


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


def test_io_error_half_way_fails_each_format_and_the_next_run_ingests_it_whole(workplace: Workplace) -> None:
    names = [f"a.{suffix}" for suffix in sorted(FIVE_FORMATS)]
    contents = {name: three_seconds(name[2:].upper()) for name in names}
    for name, content in contents.items():
        (workplace.input / name).write_bytes(content)

    failing = workplace.execute(faults={"eio": {name: len(content) // 2 for name, content in contents.items()}})
    log_text = workplace.log_file.read_text()
    assert failing.returncode == 1, failing.stderr
    assert {name: (workplace.input / name).read_bytes() for name in names} == contents
    assert (workplace.originals(), workplace.quarantined()) == ([], [])
    for name in names:
        assert f"{workplace.input / name}: failed, left where it is: OSError: [Errno 5]" in log_text

    assert workplace.run().inserted == len(names)
    assert workplace.originals() == names
    assert {(row["duration_s"], row["quality_ok"]) for row in workplace.rows()} == {(3.0, 1)}


# ------------------------------------------------------------------------------------------------------ truncated files

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


@pytest.mark.parametrize("suffix", ["wav", "aiff", "ogg", "mp3"])
def test_truncation_is_a_quality_issue_of_the_row(workplace: Workplace, suffix: str) -> None:
    content = three_seconds(suffix.upper())
    whole = ingest(workplace, content, f"whole.{suffix}")
    half = ingest(workplace, content[: len(content) // 2], f"half.{suffix}")
    assert (issues(whole), whole.metadata.quality_ok) == ([], 1)
    assert (issues(half), half.metadata.quality_ok) == (["truncated"], 0)


def test_truncated_flac_is_quarantined(workplace: Workplace) -> None:
    flac = three_seconds("FLAC")
    path = workplace.input / "half.flac"
    path.write_bytes(flac[: len(flac) // 2])
    assert process(workplace, path) is None
    assert workplace.quarantined() == ["ERROR_LibsndfileError_half.flac"]


TAILS = {
    "ID3v1": b"TAG" + b"kick".ljust(125, b"\0"),
    "APEv2": b"APETAGEX" + struct.pack("<IIII", 2_000, 32, 0, 1 << 31) + bytes(8),
    "two bytes": b"\1\2",
    "zeros": bytes(5_000),
    "noise": np.random.default_rng(5).bytes(9_000),
    "frame headers": b"\xff\xf8" * 50,
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [1, 4_096, 4_097, 2 * BLOCK_S * RATE_HZ, 5 * RATE_HZ])
def test_flac_with_anything_after_its_last_frame_has_the_samples_of_the_one_without(
    decode: Decode, frames: int, channels: int, tail: bytes
) -> None:
    flac = encode(noise(frames, channels), RATE_HZ, "FLAC")
    whole, tailed = decode(flac), decode(flac + tail)
    assert tailed.source == whole.source
    assert tailed.source.frames == frames
    np.testing.assert_array_equal(tailed.samples, whole.samples)


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


def test_flac_with_a_tail_is_a_row_of_a_run_and_a_cut_one_is_quarantined(workplace: Workplace) -> None:
    flac = three_seconds("FLAC")
    for name, content in {"tagged": flac, "cut": flac[: len(flac) // 2]}.items():
        (workplace.input / f"{name}.flac").write_bytes(content + TAILS["ID3v1"])
    summary = workplace.run()
    assert (summary.inserted, summary.quarantined) == (1, 1)
    assert workplace.originals() == ["tagged.flac"]
    assert workplace.quarantined() == ["ERROR_LibsndfileError_cut.flac"]
    assert workplace.rows()[0]["duration_s"] == 3


RF64_OF_ABSURD_SIZE = three_seconds("RF64")[:28] + b"\x7f" * 8 + three_seconds("RF64")[36:]  # of data, in ds64


@pytest.mark.parametrize(
    ("content", "quarantined"),
    [
        pytest.param(three_seconds("AIFF")[:38], "ERROR_LibsndfileError_a.aiff", id="AIFF cut before its sound"),
        pytest.param(three_seconds("AIFF", "FLOAT")[:60], "ERROR_LibsndfileError_a.aifc", id="AIFF-C likewise"),
        pytest.param(three_seconds("W64")[:100], "ERROR_NoSamples_a.w64", id="W64 cut in its header"),
    ],
)
def test_header_that_sends_the_decoder_before_the_start_is_the_files_fault(
    workplace: Workplace, content: bytes, quarantined: str
) -> None:
    """That seek fails with EINVAL, which says nothing of the disk: else the file would fail in every run."""
    path = workplace.input / quarantined.rpartition("_")[2]
    path.write_bytes(content)
    assert process(workplace, path) is None
    assert workplace.quarantined() == [quarantined]


def test_rf64_that_sends_the_decoder_before_the_start_is_ingested_whole(workplace: Workplace) -> None:
    assert ingest(workplace, RF64_OF_ABSURD_SIZE, "a.rf64").metadata.duration_s == 3


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


# -------------------------------------------------------------------------------------------------- too short, too long


@pytest.mark.parametrize("rate_hz", [96_000, 192_000, 384_000])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_few_samples_at_a_high_rate_give_at_least_one(decode: Decode, rate_hz: int, frames: int) -> None:
    short = decode(encode(np.full(frames, 0.5), rate_hz, "WAV", "FLOAT"))
    assert len(short.samples) >= 1
    assert 0.2 < short.peak <= 0.75


@pytest.mark.parametrize(
    ("content", "max_duration_s"),
    [
        pytest.param(encode(np.zeros(21_601), 1, "WAV"), SIX_HOURS_S, id="43 kB at 1 Hz"),
        pytest.param(three_seconds("MP3"), 2.9, id="mp3"),
        pytest.param(three_seconds("OGG"), 2.9, id="ogg"),
        pytest.param(with_total_samples(three_seconds("FLAC"), 0), 2.9, id="flac of unknown length"),
    ],
)
def test_too_long_file_is_told_before_anything_is_written(
    tmp_path: Path, content: bytes, max_duration_s: float
) -> None:
    with StandardisedAudio(tmp_path) as audio:
        with pytest.raises(TooLong, match="more than max_duration_s"):
            standardise(io.BytesIO(content), audio, max_duration_s)
        audio.file.flush()
        assert (audio.length, audio.scratch.stat().st_size) == (0, 0)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3"])
def test_file_of_exactly_the_longest_duration_is_ingested(decode: Decode, container: str) -> None:
    assert decode(three_seconds(container), max_duration_s=3.0).source.duration_s == 3


@pytest.mark.parametrize("container", ["WAV", "AIFF", "OGG", "W64", "RF64", "AU", "CAF"])
def test_header_without_audio_is_no_samples(decode: Decode, container: str) -> None:
    with pytest.raises(NoSamples, match=container):
        decode(encode(np.zeros(0), RATE_HZ, container))


# ----------------------------------------------------------------------------------------- values that are no audio


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


# ------------------------------------------------------------------------------------------- mono, 48 kHz, 24 bit, once


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
    replace_name(monkeypatch, "BLOCK_S", 10)
    ten = decode(three_seconds("WAV"))
    replace_name(monkeypatch, "BLOCK_S", 1)
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


def test_stereo_of_opposite_phase_is_silence_and_ingested(workplace: Workplace) -> None:
    left = noise(48_000)
    processed = ingest(workplace, encode(np.hstack([left, -left]), 48_000, "WAV", "FLOAT"), "wide.wav")
    assert not processed.windows[0].any()
    assert issues(processed) == ["silent"]


@pytest.mark.parametrize("gain", [0.001, 0.1, 0.99])
def test_gain_is_never_changed(decode: Decode, gain: float) -> None:
    tone = gain * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)
    assert decode(encode(tone, RATE_HZ, "WAV", "FLOAT")).peak == pytest.approx(gain, rel=1e-3)


# --------------------------------------------------------------------------------------------------------- the WAV


def data_chunk(wav: bytes) -> bytes:
    """Return the audio of a RIFF file, chunk by chunk as the format is defined."""
    assert (wav[:4], wav[8:12]) == (b"RIFF", b"WAVE")
    position = 12
    while wav[position : position + 4] != b"data":
        position += 8 + struct.unpack_from("<I", wav, position + 4)[0]
    size_bytes: int = struct.unpack_from("<I", wav, position + 4)[0]
    assert len(wav) >= position + 8 + size_bytes
    return wav[position + 8 : position + 8 + size_bytes]


def published_wav(processed: ProcessedFile) -> Path:
    assert processed.metadata.path is not None
    return Path(processed.metadata.path)


@pytest.mark.parametrize("frames", [1, 2, 999, 50_000], ids="{} samples".format)
def test_published_wav_is_48_khz_mono_24_bit_to_soundfile_and_to_the_standard_library(
    workplace: Workplace, frames: int
) -> None:
    """1 and 999 samples are an odd number of bytes, which RIFF would pad."""
    path = published_wav(ingest(workplace, encode(noise(frames), 48_000, "WAV", "FLOAT"), "a.wav"))
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", "PCM_24", 48_000, 1)
    assert info.frames == len(soundfile.read(path)[0]) == frames
    with wave.open(str(path)) as file:
        assert file.getparams()[:4] == (1, 3, 48_000, frames)
        assert len(file.readframes(frames)) == 3 * frames


def test_published_wav_holds_exactly_the_samples_of_the_windows_and_the_hash(workplace: Workplace) -> None:
    processed = ingest(workplace, three_seconds("WAV"), "a.wav")
    path = published_wav(processed)
    samples = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_array_equal(processed.windows[0], clap_quantises(samples))
    assert processed.metadata.samples_sha256 == hashlib.sha256(data_chunk(path.read_bytes())).hexdigest()


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


def all_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_no_scratch_file_is_left_beside_the_published_wav(workplace: Workplace) -> None:
    processed = ingest(workplace, three_seconds("WAV"), "a.wav")
    assert all_files(workplace.wavs) == [published_wav(processed).relative_to(workplace.wavs).as_posix()]


def test_no_scratch_file_is_left_of_a_broken_file(workplace: Workplace) -> None:
    path = workplace.input / "nan.wav"
    path.write_bytes(encode([0.5, math.nan], 48_000, "WAV", "FLOAT"))
    assert process(workplace, path) is None
    assert all_files(workplace.wavs) == []


@pytest.mark.parametrize("step", ["analyse", "cut_windows"])
def test_no_scratch_file_is_left_when_the_machine_fails(
    workplace: Workplace, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    replace_name(monkeypatch, step, fail)
    with pytest.raises(MachineFault, match="No space left"):
        ingest(workplace, three_seconds("WAV"), "a.wav")
    assert all_files(workplace.wavs) == []
    assert all_files(workplace.input) == ["a.wav"]


# -------------------------------------------------------------------------------------------------------- windows


def clap_quantises(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Return what laion_clap makes of a waveform first (float32_to_int16 in training/data.py)."""
    return (np.clip(waveform, -1.0, 1.0) * 32767.0).astype(np.int16)


class ListeningClap(FakeClap):
    """Remembers the waveforms of the last call."""

    heard: Sequence[npt.NDArray[np.float32]]

    def get_audio_embedding_from_data(self, x: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        self.heard = x
        return super().get_audio_embedding_from_data(x)


def test_all_65535_int16_steps_survive_claps_own_quantisation() -> None:
    steps = np.arange(-32_767, 32_768).astype(np.int16)
    clap = ListeningClap()
    embed_windows(clap.get_audio_embedding_from_data, [steps])
    assert clap.heard[0].dtype == np.float32
    np.testing.assert_array_equal(clap_quantises(clap.heard[0]), steps)


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


def slice_starts(length: int, max_windows: int) -> list[int]:
    """Return the starts by the rule's words, in exact fractions."""
    count = min(max_windows, math.ceil(Fraction(length, WINDOW)))
    if count == 1:
        return [0]
    return [math.floor(Fraction(i, count - 1) * (length - WINDOW)) for i in range(count)]


@given(length=st.integers(1, 20_000_000), max_windows=st.integers(1, 64))
def test_windows_start_where_the_rule_says_and_lie_inside(length: int, max_windows: int) -> None:
    starts = window_starts(length, max_windows)
    assert starts == slice_starts(length, max_windows)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    if length > WINDOW and max_windows > 1:
        assert starts[-1] + WINDOW == length
    if length <= max_windows * WINDOW:
        gaps = [after - before for before, after in itertools.pairwise(starts)]
        assert all(gap <= WINDOW for gap in gaps), "a sample that no window holds"


@pytest.mark.parametrize(
    ("length", "starts"), [(WINDOW, [0]), (WINDOW + 1, [0, 1]), (1_200_000, [0, 360_000, 720_000])]
)
def test_windows_of_known_lengths(length: int, starts: list[int]) -> None:
    assert window_starts(length, 8) == starts


# ----------------------------------------------------------------------------------------------------- odd, but valid


def test_odd_but_valid_files_all_become_rows(workplace: Workplace) -> None:
    for name, (samples, rate_hz, container, subtype) in ODD_BUT_VALID.items():
        (workplace.input / name).write_bytes(encode(samples, rate_hz, container, subtype))
    summary = workplace.run()
    assert workplace.quarantined() == []
    assert (summary.inserted, summary.failed) == (len(ODD_BUT_VALID), 0)
    rows = dict(zip(workplace.originals(), workplace.rows(), strict=True))
    formats = {name: (row["sample_rate_hz"], row["channels"]) for name, row in rows.items()}
    assert formats == {name: (odd[1], odd[0].size // len(odd[0])) for name, odd in ODD_BUT_VALID.items()}
    poor = {name: json.loads(row["features"])["quality_issues"] for name, row in rows.items() if not row["quality_ok"]}
    assert poor == POOR


def test_what_the_mp3_decoder_prints_goes_into_the_log_and_not_to_the_terminal(workplace: Workplace) -> None:
    mp3 = three_seconds("MP3")
    (workplace.input / "half.mp3").write_bytes(mp3[: len(mp3) // 2])
    process = workplace.execute()
    assert process.returncode == 0
    assert XING_WARNING in workplace.log_file.read_text()
    assert XING_WARNING not in process.stdout + process.stderr
