"""The stems' truth is checked against what soundfile and librosa find in the files, not the tables."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf

import make_stems as maker
from make_stems import STEMS, Stem, main, make_stems, render

LOSSY = {"mp3", "ogg"}
Truth = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One library for all tests that only read."""
    made = tmp_path_factory.mktemp("library")
    assert main([str(made)]) == 0
    return made


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    entries: Truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["stems"]
    return entries


@pytest.fixture(scope="module")
def valid(truth: Truth) -> Truth:
    return [entry for entry in truth if entry["valid"]]


def files(folder: Path) -> list[str]:
    stems = folder / "stems"
    return sorted(path.relative_to(stems).as_posix() for path in stems.rglob("*") if path.is_file())


def samples(folder: Path, file: str) -> npt.NDArray[np.float64]:
    """float64 [shape=(frames, channels)]"""
    read: npt.NDArray[np.float64] = sf.read(folder / "stems" / file, always_2d=True)[0]
    return read


def each_valid(folder: Path, valid: Truth) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    for entry in valid:
        yield entry["file"], samples(folder, entry["file"])


# ------------------------------------------------------------------------------------------------ the folder


def test_there_are_74_audio_files_and_truth_lists_each_once(folder: Path, truth: Truth) -> None:
    on_disk = files(folder)
    assert len(on_disk) == 74
    assert {Path(file).suffix.lower() for file in on_disk} == {".wav", ".flac", ".ogg", ".mp3", ".aiff"}
    assert sorted(entry["file"] for entry in truth) == on_disk


def test_71_are_valid_and_3_are_not(truth: Truth) -> None:
    assert Counter(entry["valid"] for entry in truth) == {True: 71, False: 3}


def test_the_folder_is_small(folder: Path) -> None:
    assert sum((folder / "stems" / file).stat().st_size for file in files(folder)) < 25e6


def test_every_category_is_there(valid: Truth) -> None:
    assert Counter(entry["category"] for entry in valid) == {
        "kick": 9,
        "snare": 8,
        "hat": 8,
        "bass": 9,
        "chord": 9,
        "drum_loop": 9,
        "melodic_loop": 8,
        "pad": 4,
        "texture": 5,
        "silence": 1,
        "piece": 1,
    }


def test_every_form_is_there(valid: Truth) -> None:
    forms = {(entry["format"], entry["subtype"]) for entry in valid}
    wanted = {("wav", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT")}
    wanted |= {("flac", "PCM_16"), ("flac", "PCM_24"), ("aiff", "PCM_16"), ("aiff", "PCM_24")}
    assert forms == wanted | {("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")}
    rates_hz = {entry["sample_rate_hz"] for entry in valid}
    assert (min(rates_hz), max(rates_hz)) == (8_000, 96_000)
    assert {16_000, 22_050, 32_000, 44_100, 48_000} < rates_hz
    assert {entry["channels"] for entry in valid} == {1, 2}


def test_names_are_awkward(truth: Truth) -> None:
    names = [Path(entry["file"]).name for entry in truth]
    repeated = {name for name, times in Counter(names).items() if times > 1}
    assert "loop_01.wav" in repeated
    for awkward in (" ", "ä", "🎹", ".WAV"):
        assert any(awkward in name for name in names), awkward


def test_names_tell_the_same_key_and_tempo_as_the_truth(valid: Truth) -> None:
    for entry in valid:
        if told := re.search(r"(\d+)bpm", entry["file"]):
            assert entry["bpm"] == float(told[1]), entry["file"]
        if told := re.search(r"_([A-G]#?m?)\.", entry["file"]):
            assert entry["key"] == told[1], entry["file"]


# ------------------------------------------------------------------------------------------------- the truth


def test_truth_agrees_with_what_soundfile_reads(folder: Path, valid: Truth) -> None:
    for entry in valid:
        with sf.SoundFile(folder / "stems" / entry["file"]) as sound:
            read = (sound.format.lower(), sound.subtype, sound.samplerate, sound.channels)
            told = (entry["format"], entry["subtype"], entry["sample_rate_hz"], entry["channels"])
            assert read == told, entry["file"]
            if entry["format"] not in LOSSY:
                assert sound.frames == entry["frames"], entry["file"]
            assert entry["duration_s"] == pytest.approx(sound.frames / sound.samplerate, rel=0.01)


def test_windows_stay_within_the_budget_and_only_the_piece_has_several(valid: Truth) -> None:
    windows = {entry["file"]: entry["windows"] for entry in valid}
    assert sum(windows.values()) <= 96
    assert {file: n for file, n in windows.items() if n > 1} == {"Full Pieces/piece_96bpm_Am.flac": 3}


@pytest.mark.parametrize(("seconds", "windows"), [(0.05, 1), (10.0, 1), (10.0001, 2), (25.0, 3), (80.0, 8), (300.0, 8)])
def test_a_window_is_counted_for_each_ten_seconds_begun(seconds: float, windows: int) -> None:
    assert Stem("x.wav", "silence", "silence", seconds).windows == windows


def test_loops_hold_whole_bars_of_their_tempo(valid: Truth) -> None:
    looped = [entry for entry in valid if entry["bpm"]]
    assert {90.0, 120.0, 140.0, 174.0} <= {entry["bpm"] for entry in looped}
    for entry in looped:
        bars = entry["duration_s"] * entry["bpm"] / 60 / 4
        assert bars == pytest.approx(round(bars), abs=1e-3), entry["file"]
        assert entry["duration_s"] >= 2, entry["file"]


def test_keys_are_given_to_what_has_notes_and_to_nothing_else(valid: Truth) -> None:
    keyed = {entry["category"] for entry in valid if entry["key"]}
    assert keyed == {"bass", "chord", "melodic_loop", "pad", "piece"}
    assert all(entry["key"] for entry in valid if entry["category"] in keyed)


# ------------------------------------------------------------------------------------------------ the sounds


def test_every_valid_file_decodes_to_finite_samples_at_a_sane_level(folder: Path, valid: Truth) -> None:
    for file, read in each_valid(folder, valid):
        assert len(read), file
        assert np.isfinite(read).all(), file
        assert ("silence" in file and not read.any()) or 0.1 <= np.abs(read).max() <= 0.95, file


def test_all_valid_sounds_differ(folder: Path, valid: Truth) -> None:
    seen = {read.mean(axis=1).round(2).tobytes(): file for file, read in each_valid(folder, valid)}
    assert len(seen) == 71


def test_two_processes_make_the_same_samples(folder: Path, valid: Truth, tmp_path: Path) -> None:
    """The second has another hash seed: what leans on hash() or the order of a set would differ."""
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, maker.__file__, tmp_path], env=environment, check=True, timeout=60)
    assert files(tmp_path) == files(folder)
    assert (tmp_path / "truth.json").read_bytes() == (folder / "truth.json").read_bytes()
    for file, read in each_valid(folder, valid):
        np.testing.assert_array_equal(samples(tmp_path, file), read, err_msg=file)


def test_key_can_be_heard_by_librosa() -> None:
    """Krumhansl-Kessler: the profile that correlates best with the chroma names the key."""
    heard = {key: heard_key(stem_named(f"Chords/chord_soft_{key}.wav")) for key in ("C", "Am")}
    assert heard == {"C": "C", "Am": "Am"}


def test_tempo_can_be_heard_by_librosa() -> None:
    from librosa.beat import beat_track

    stem = stem_named("Loops/120bpm/loop_01.wav")
    assert stem.bpm is not None
    tempo_bpm = float(np.squeeze(beat_track(y=render(stem)[:, 0], sr=stem.form.sample_rate_hz)[0]))
    assert min(abs(tempo_bpm / stem.bpm / octave - 1) for octave in (0.5, 1, 2)) < 0.04


def stem_named(file: str) -> Stem:
    return next(stem for stem in STEMS if stem.file == file)


def heard_key(stem: Stem) -> str:
    from librosa.feature import chroma_stft

    major = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
    minor = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
    chroma = chroma_stft(y=render(stem)[:, 0], sr=stem.form.sample_rate_hz, n_fft=8192).mean(axis=1)
    notes = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    fits = {
        note + mode: np.corrcoef(np.roll(profile, semitones), chroma)[0, 1]
        for mode, profile in (("", major), ("m", minor))
        for semitones, note in enumerate(notes)
    }
    return max(fits, key=lambda key: float(fits[key]))


# ------------------------------------------------------------------------------------------ the corrupt ones


@pytest.mark.parametrize("file", ["broken/kick_empty.wav", "broken/snare_notes.wav"])
def test_empty_file_and_text_do_not_open(folder: Path, file: str) -> None:
    with pytest.raises(sf.LibsndfileError):
        sf.SoundFile(folder / "stems" / file)


@pytest.mark.parametrize("frames", [44_100, 4_096], ids=["whole", "in blocks"])
def test_cut_flac_opens_with_its_full_length_but_raises_when_read(folder: Path, frames: int) -> None:
    with sf.SoundFile(folder / "stems/broken/pad_cut_short.flac") as sound:
        assert sound.frames == 44_100
        with pytest.raises(sf.LibsndfileError, match=r"lost sync|fseek"):
            [sound.read(frames) for _ in range(0, 44_100, frames)]


# ----------------------------------------------------------------------------------------------- the command


def test_rerun_rewrites_what_was_damaged_and_leaves_other_files(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "STEMS", STEMS[:1])  # one is enough, and all take 3 s
    damaged = tmp_path / "stems/Drums/Kicks/kick_punchy_01.wav"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    (tmp_path / "stems/mine.txt").write_text("keep me")
    make_stems(tmp_path)
    assert damaged.read_bytes() == (folder / "stems/Drums/Kicks/kick_punchy_01.wav").read_bytes()
    assert (tmp_path / "stems/mine.txt").read_text() == "keep me"


def test_a_file_in_the_way_is_reported_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_the_way = tmp_path / "taken"
    in_the_way.write_text("not a folder")
    assert main([str(in_the_way)]) == 1
    assert f"cannot write to {in_the_way}" in capsys.readouterr().err


def test_help_says_what_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "71 valid and 3 corrupt audio files" in " ".join(capsys.readouterr().out.split())
