"""Audio that is valid and huge in one way or another is ingested, in little memory."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_files import long_silence
from av_files import Form, encoded
from extent import HOURS_OF_AAC, HOURS_OF_SILENCE, MINUTES_OF_NOISE, say
from workplace import Workplace


def minutes_of_noise(path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, (22_050, 1)).astype(np.float32)
    with soundfile.SoundFile(path, "w", 22_050, 1, "VORBIS") as file:
        for _ in range(60 * MINUTES_OF_NOISE):
            file.write(noise)


def many_channels_at_a_high_rate(path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, (19_200, 64)).astype(np.float32)
    with soundfile.SoundFile(path, "w", 384_000, 64, "PCM_16") as file:
        for _ in range(30):
            file.write(noise)


def claims_four_gigabytes(path: Path) -> None:
    soundfile.write(path, np.sin(np.arange(48_000) / 20), 48_000, "PCM_16")
    header = bytearray(path.read_bytes())
    header[4:8] = struct.pack("<I", 0xFFFF_EFFF)
    header[40:44] = struct.pack("<I", 0xFFFF_EFDB)
    path.write_bytes(header)


def hours_of_aac(path: Path) -> None:
    """Ten seconds of AAC, over and over."""
    frames = encoded(Form("aac", "adts", "aac", rate_hz=8_000), 10)
    with open(path, "wb") as file:
        for _ in range(int(360 * HOURS_OF_AAC)):
            file.write(frames)


def claims_many_channels_at_a_high_rate(path: Path) -> None:
    """PCM in Matroska whose header is changed from 2 channels at 44.1 kHz."""
    content = encoded(Form("mka", "matroska", "pcm_s16le"), 3, channels=2)
    channels, rate = b"\x9f\x81", b"\xb5\x88"  # EBML: the names of the two, and their sizes
    old, new = (struct.pack(">d", rate_hz) for rate_hz in (44_100, 384_000))
    assert content.count(channels + b"\2") == content.count(rate + old) == 1
    path.write_bytes(content.replace(channels + b"\2", channels + b"\x40").replace(rate + old, rate + new))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_long_wide_and_lying_files_stay_within_a_small_limit_and_are_ingested(workplace: Workplace) -> None:
    long_silence(workplace.input / "hours.flac", HOURS_OF_SILENCE)
    minutes_of_noise(workplace.input / "noise.ogg")
    many_channels_at_a_high_rate(workplace.input / "wide.wav")
    claims_four_gigabytes(workplace.input / "claims.wav")
    hours_of_aac(workplace.input / "hours.aac")
    claims_many_channels_at_a_high_rate(workplace.input / "claims.mka")
    (workplace.folder / "config.yaml").write_text("worker_memory_mb: 128\nmax_duration_s: 28800\n", encoding="utf-8")
    result = workplace.execute("--report", "report.json", faults={"measure": True})
    account = json.loads((workplace.folder / "report.json").read_text(encoding="utf-8"))
    assert (result.returncode, account["inserted"]) == (0, 6), result.stderr
    duration_s = {os.path.basename(row["original_file"]): row["duration_s"] for row in workplace.rows()}
    assert duration_s.pop("hours.aac") == pytest.approx(3_600 * HOURS_OF_AAC, rel=0.05)
    assert duration_s.pop("claims.mka") == pytest.approx(3 * 2 / 64 * 44_100 / 384_000, rel=0.1)
    lengths = {"hours.flac": 3_600 * HOURS_OF_SILENCE, "noise.ogg": 60 * MINUTES_OF_NOISE}
    assert duration_s == {**lengths, "wide.wav": 1.5, "claims.wav": 1}
    say(
        f"Long files within 128 MB per worker, {account['seconds']:.0f} s:",
        *(f"{n} {s:g} s" for n, s in duration_s.items()),
    )
