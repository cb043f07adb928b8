"""From any audio file to 48 kHz, mono, 24 bit."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_files import ODD_BUT_VALID, POOR, encode, noise, with_total_samples
from ingest import FIVE_FORMATS, SIX_HOURS_S, TAILS, all_files, clap_quantises, ingest, process, three_seconds
from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.datatypes import ProcessedFile
from stem_dataset.errors import TooLong
from workplace import Workplace

XING_WARNING = "Xing stream size off"


def issues(processed: ProcessedFile) -> list[str]:
    found: list[str] = json.loads(processed.metadata.features)["quality_issues"]
    return found


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


def test_stereo_of_opposite_phase_is_silence_and_ingested(workplace: Workplace) -> None:
    left = noise(48_000)
    processed = ingest(workplace, encode(np.hstack([left, -left]), 48_000, "WAV", "FLOAT"), "wide.wav")
    assert not processed.windows[0].any()
    assert issues(processed) == ["silent"]


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


def test_no_scratch_file_is_left_beside_the_published_wav(workplace: Workplace) -> None:
    processed = ingest(workplace, three_seconds("WAV"), "a.wav")
    assert all_files(workplace.wavs) == [published_wav(processed).relative_to(workplace.wavs).as_posix()]


def test_no_scratch_file_is_left_of_a_broken_file(workplace: Workplace) -> None:
    path = workplace.input / "nan.wav"
    path.write_bytes(encode([0.5, math.nan], 48_000, "WAV", "FLOAT"))
    assert process(workplace, path) is None
    assert all_files(workplace.wavs) == []


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
