"""One description out of names and audio; quality issues."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytest
import soxr

import make_music
from audio_files import encode
from make_music import Example
from pack_names import read_table
from rhythms import (
    C_MAJOR,
    ORDINARY,
    ROOT,
    beats,
    chords,
    config,
    described,
    hits,
    is_octave_of,
    measured,
    noise,
    note,
    read,
    seconds_in,
)
from sounds import CONFIG, FIVE, HARD_CLIPPED, RATE_HZ, analysed, issues, read_sound, sine, stereo, wav
from stem_dataset.datatypes import Description, NameFacts, SourceFormat
from stem_dataset.music.describe import describe, features_of_audio, quality_issues
from stem_dataset.music.filenames import read_name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "samples",
    [[0.5], [1e-6] * RATE_HZ, np.ones(3 * RATE_HZ), [0.0] * 3 * RATE_HZ + [0.9], np.tile([1, -1], 2 * RATE_HZ)],
    ids=["one sample", "one step of DC", "full scale DC", "a hit at the end", "Nyquist at full scale"],
)
def test_odd_audio_is_described_by_finite_numbers(folder: Path, samples: npt.ArrayLike) -> None:
    measured = analysed(samples, folder)
    assert set(measured.features) == {*FIVE, "peak_dbfs", "loudness_lufs"}
    assert all(measured.features[name] is not None for name in (*FIVE, "peak_dbfs"))
    source = SourceFormat(RATE_HZ, 1, np.size(samples), False)
    description = describe(NameFacts(), features_of_audio(measured, source, CONFIG), source.duration_s)
    json.dumps(description.features, allow_nan=False)  # raises for NaN and infinity
    assert (description.bpm, description.key) == (None, None)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "PCM_U8"])
def test_a_sound_file_has_no_issue(folder: Path, subtype: str) -> None:
    assert issues(folder, wav(sine(440), subtype)) == []
    assert issues(folder, wav(stereo(sine(440), sine(330)), subtype)) == []


def test_a_file_that_lacks_its_end_is_truncated(folder: Path) -> None:
    whole = wav(sine(440))
    assert issues(folder, whole[: len(whole) // 2]) == ["truncated"]


@pytest.mark.parametrize(
    ("frames", "rate_hz", "expected"),
    [
        (999, 100_000, ["too_short"]),  # 9.99 ms
        (1_000, 100_000, []),
        (479, 48_000, ["too_short"]),
        (480, 48_000, []),
        (440, 44_100, ["too_short"]),
        (441, 44_100, []),
        (2, 1, []),
    ],
)
def test_under_ten_milliseconds_is_too_short(folder: Path, frames: int, rate_hz: int, expected: list[str]) -> None:
    samples = 0.5 * np.sin(np.arange(1, frames + 1))
    assert issues(folder, encode(samples, rate_hz, "WAV", "PCM_16"), max_dc_offset=1) == expected


def test_a_user_may_ask_for_longer_files(folder: Path) -> None:
    assert issues(folder, wav(sine(440)), min_duration_s=1.0) == []
    assert issues(folder, wav(sine(440)), min_duration_s=math.nextafter(1.0, 2)) == ["too_short"]


@pytest.mark.parametrize("samples", [np.zeros(48_000), np.zeros(4_800), stereo(sine(440), -sine(440))])
def test_a_mix_of_zeros_alone_is_silent_and_not_also_too_quiet(folder: Path, samples: npt.ArrayLike) -> None:
    assert issues(folder, wav(samples, "FLOAT")) == ["silent"]


def test_one_step_of_24_bit_is_not_silent(folder: Path) -> None:
    one_step = np.zeros(48_000)
    one_step[24_000] = 1 / 2**23
    assert issues(folder, wav(one_step, "PCM_24")) == ["too_quiet"]


@pytest.mark.parametrize("seconds", [0.1, 0.399, 0.4, 3])
def test_less_than_the_least_loudness_is_too_quiet_however_short(folder: Path, seconds: float) -> None:
    """Under 0.4 s the RMS of the frames stands in, a little less at the edges."""
    quieter, louder = (wav(sine(997, seconds, 10 ** ((-60 + 3.01 + more) / 20)), "PCM_24") for more in (-0.5, 2))
    assert issues(folder, quieter) == ["too_quiet"]
    assert issues(folder, louder) == []


@pytest.mark.parametrize("seconds", [0.1, 3])
def test_the_least_loudness_is_the_users_to_set(folder: Path, seconds: float) -> None:
    content = wav(sine(997, seconds, 0.05))
    features = read_sound(folder, content)[1].features
    level, rms = features["loudness_lufs"], features["rms"]
    if level is None:
        assert rms is not None
        level = 20 * math.log10(rms)
    assert issues(folder, content, min_loudness_lufs=level) == []
    assert issues(folder, content, min_loudness_lufs=math.nextafter(level, 0)) == ["too_quiet"]


ONE_PEAK = np.where(np.arange(RATE_HZ) == 100, 1.0, sine(440))


@pytest.mark.parametrize(
    ("samples", "subtype"),
    [
        (HARD_CLIPPED, "PCM_16"),
        (HARD_CLIPPED, "PCM_24"),
        (HARD_CLIPPED, "PCM_U8"),
        (stereo(sine(440), HARD_CLIPPED), "PCM_16"),
        (sine(440, amplitude=1.5), "FLOAT"),
    ],
    ids=["16 bit", "24 bit", "8 bit", "one of two channels", "a float file beyond 1"],
)
def test_tops_cut_off_flat_are_clipped(folder: Path, samples: npt.ArrayLike, subtype: str) -> None:
    assert issues(folder, wav(samples, subtype)) == ["clipped"]


@pytest.mark.parametrize(
    ("samples", "subtype"),
    [
        (sine(50, amplitude=1), "PCM_16"),
        (sine(440, amplitude=1), "PCM_16"),
        (sine(440, amplitude=1), "FLOAT"),
        (ONE_PEAK, "PCM_16"),
        (np.clip(sine(440, amplitude=0.9), -0.45, 0.45), "PCM_16"),
    ],
    ids=["50 Hz at full scale", "440 Hz at full scale", "in float", "one peak", "flat tops far below full scale"],
)
def test_what_is_only_loud_is_not_clipped(folder: Path, samples: npt.ArrayLike, subtype: str) -> None:
    assert issues(folder, wav(samples, subtype)) == []


def test_the_share_that_may_be_clipped_is_the_users_to_set(folder: Path) -> None:
    content = wav(HARD_CLIPPED)
    share = read_sound(folder, content)[0].clipped_share
    assert share == pytest.approx(1 - 2 / math.pi * math.asin(1 / 1.5), abs=0.02)  # of the time |sin| > 1 / 1.5
    assert issues(folder, content, max_clipped_share=share) == []
    assert issues(folder, content, max_clipped_share=math.nextafter(share, 0)) == ["clipped"]


@pytest.mark.parametrize("offset", [-0.25, 0.25])
def test_a_mean_off_zero_is_a_dc_offset_beyond_the_setting(folder: Path, offset: float) -> None:
    content = wav(np.tile([0.125, -0.125], RATE_HZ // 2) + offset)  # exact in 16 bits
    assert issues(folder, content) == ["dc_offset"]
    assert issues(folder, content, max_dc_offset=0.25) == []
    assert issues(folder, content, max_dc_offset=math.nextafter(0.25, 0)) == ["dc_offset"]


def test_a_dc_offset_of_one_channel_is_told_though_the_mix_has_none(folder: Path) -> None:
    assert issues(folder, wav(stereo(sine(440) + 0.1, sine(440) - 0.1))) == ["dc_offset"]


def test_a_channel_without_sound_beside_one_with_is_dead(folder: Path) -> None:
    nothing = np.zeros(RATE_HZ)
    assert issues(folder, wav(stereo(sine(440), nothing))) == ["dead_channel"]
    assert issues(folder, wav(stereo(nothing, sine(440)))) == ["dead_channel"]


@pytest.mark.parametrize("channels", [3, 4, 6, 8])
@pytest.mark.parametrize("silent", [0, -1])
def test_silent_channels_of_surround_files_are_the_convention(folder: Path, channels: int, silent: int) -> None:
    bed = np.stack([sine(110 * (channel + 1)) for channel in range(channels)], axis=1)
    bed[:, silent] = 0
    assert issues(folder, wav(bed)) == []


def test_a_channel_is_dead_under_minus_80_dbfs(folder: Path) -> None:
    quiet, dead = (sine(1_000, amplitude=10 ** (dbfs / 20)) for dbfs in (-79.9, -80.1))
    assert issues(folder, wav(stereo(sine(440), quiet), "FLOAT")) == []
    assert issues(folder, wav(stereo(sine(440), dead), "FLOAT")) == ["dead_channel"]


def test_where_all_channels_are_silent_none_of_them_is_dead(folder: Path) -> None:
    assert issues(folder, wav(np.zeros((RATE_HZ, 2)))) == ["silent"]
    assert issues(folder, wav(sine(440))) == []


def test_all_issues_are_told(folder: Path) -> None:
    source, measured = SourceFormat(RATE_HZ, 2, 1, True, 0.5, -0.5, True), analysed([0.5], folder)
    everything = "truncated too_short too_quiet clipped dc_offset dead_channel".split()
    features = {**measured.features, "rms": 1e-5}
    assert quality_issues(source, features, CONFIG) == everything


def test_table_has_the_size_that_was_asked_for() -> None:
    assert len(read_table()) >= 200


@pytest.mark.parametrize("bpm", [70, 100, 128, 150])
def test_steady_pulse_is_a_loop_of_its_tempo_or_an_octave(bpm: float, tmp_path: Path) -> None:
    loop = described(beats(bpm, 10.3), tmp_path)  # whole bars at none of them
    assert loop.bpm is not None
    assert is_octave_of(bpm, loop.bpm)
    assert loop.features["is_loop"] is True
    assert loop.features["bpm_source"] == "audio"
    assert 0.5 < loop.features["bpm_confidence"] <= 1


def riser(duration_s: float) -> npt.NDArray[np.float64]:
    t = seconds_in(duration_s)
    return np.asarray((t / duration_s) ** 2 * np.sin(2 * np.pi * (200 * t + 400 * t**2 / duration_s)))


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(4 * RATE_HZ),
        np.zeros(1),
        hits([0.0], 4.0),
        hits([1.7], 4.0),
        noise(4.0),
        noise(9.0),
        riser(4.0),
        riser(8.0),
        note(40, 4.0),
        np.ones(3 * RATE_HZ),
        0.5 * beats(128, 0.9),
    ],
    ids=[
        "silence",
        "one sample",
        "one hit",
        "a late hit",
        "noise",
        "long noise",
        "riser",
        "long riser",
        "a note",
        "DC",
        "0.9 s",
    ],
)
@pytest.mark.filterwarnings("error")
def test_audio_without_a_steady_pulse_has_no_tempo_and_is_a_one_shot(samples: Any, tmp_path: Path) -> None:
    judged = described(samples, tmp_path)
    assert judged.bpm is judged.features["bpm_source"] is judged.features["bpm_confidence"] is None
    assert judged.features["is_loop"] is False


def test_long_noise_may_be_either(tmp_path: Path) -> None:
    judged = described(noise(11.0), tmp_path)
    assert judged.features["is_loop"] is None
    assert judged.bpm is None


def test_drums_by_name_get_no_key_from_the_audio_but_the_one_they_are_named(tmp_path: Path) -> None:
    assert described(chords(*C_MAJOR), tmp_path, "Drum Loop.wav").key is None
    assert described(chords(*C_MAJOR), tmp_path, "Tom 3.wav").key is None
    assert described(chords(*C_MAJOR), tmp_path, "Drum Loop Fm.wav").key == "Fm"
    assert described(chords(*C_MAJOR), tmp_path, "Pad.wav").key == "C"


@pytest.mark.parametrize("midi", [28, 40, 57, 76])
def test_single_note_has_a_pitch_and_no_key(midi: int, tmp_path: Path) -> None:
    judged = described(note(midi, 2.5), tmp_path, "Synth.wav")
    assert judged.features["pitch_hz"] == pytest.approx(440 * 2 ** ((midi - 69) / 12), rel=0.01)
    assert judged.key is judged.features["key_source"] is judged.features["key_confidence"] is None


def test_chords_have_a_key_and_no_pitch(tmp_path: Path) -> None:
    judged = described(chords(*C_MAJOR), tmp_path)
    assert (judged.key, judged.features["key_source"], judged.features["pitch_hz"]) == ("C", "audio", None)


def test_too_short_a_piece_has_no_key_of_its_own(tmp_path: Path) -> None:
    assert described(chords(*C_MAJOR, each_s=0.3), tmp_path).key is None
    assert described(chords(*C_MAJOR, each_s=0.3), tmp_path, "x Em.wav").key == "Em"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("samples", [np.zeros(4 * RATE_HZ), noise(4.0), np.ones(RATE_HZ), [0.0]])
def test_silence_and_noise_have_neither_key_nor_pitch(samples: Any, tmp_path: Path) -> None:
    judged = described(samples, tmp_path)
    assert judged.key is judged.features["key_source"] is judged.features["pitch_hz"] is None


def test_without_categories_all_is_unknown(tmp_path: Path) -> None:
    name = read_name(f"{ROOT}/Kick.wav", ROOT, {})
    assert name.category is None
    heard = features_of_audio(measured(noise(0.5), tmp_path), ORDINARY, config())
    assert describe(name, heard, 0.5).category == "unknown"


def test_each_judgement_says_that_a_name_told_it(tmp_path: Path) -> None:
    features = described(beats(128, 4.0), tmp_path, "Kick Loop 128bpm Am.wav").features
    assert [features[f"{what}_source"] for what in ("bpm", "key", "category")] == ["name"] * 3


def test_each_judgement_says_that_the_audio_told_it(tmp_path: Path) -> None:
    music = chords(*C_MAJOR, *C_MAJOR, each_s=1.2) + beats(100, 9.6)
    music = music[: round(8.4 * RATE_HZ)]  # three and a half bars
    features = described(music, tmp_path).features
    assert [features[f"{what}_source"] for what in ("bpm", "key", "category")] == ["audio", "audio", None]


def test_tempo_says_that_the_bars_told_it(tmp_path: Path) -> None:
    judged = described(beats(100, 9.6), tmp_path)
    assert (judged.bpm, judged.features["bpm_source"]) == (100, "bars")


def test_what_is_null_has_no_source(tmp_path: Path) -> None:
    judged = described(hits([0.0], 1.5), tmp_path)
    assert (judged.bpm, judged.key, judged.category) == (None, None, "unknown")
    assert [judged.features[f"{what}_source"] for what in ("bpm", "key", "category")] == [None] * 3


def test_features_are_what_json_can_hold(tmp_path: Path) -> None:
    for samples in (np.zeros(RATE_HZ), beats(128, 5.0), chords(*C_MAJOR), [0.5]):
        json.loads(json.dumps(described(samples, tmp_path).features, allow_nan=False))


def test_all_is_judged_without_a_file_system_and_alike_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = measured(chords(*C_MAJOR) + beats(120, 4.0), tmp_path)
    path = "Loops/Bass 120bpm Am.wav"
    first = describe(read(path), features_of_audio(heard, ORDINARY, config()), heard.duration_s)  # imports scipy

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("asked the file system")

    for name in ("builtins.open", "os.stat", "os.lstat", "os.getcwd", "os.listdir", "os.open", "os.scandir"):
        monkeypatch.setattr(name, refuse)
    again = describe(read(path), features_of_audio(heard, ORDINARY, config()), heard.duration_s)
    monkeypatch.undo()
    assert again == first


SEED = 7  # bench_metadata.py takes another, and all of each


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exam")


def decided_examples(examples: Iterator[Example], count: int, folder: Path) -> list[tuple[Example, Description]]:
    return [(example, decided_example(example, folder)) for example in itertools.islice(examples, count)]


def decided_example(example: Example, folder: Path) -> Description:
    samples = example.samples if example.samples.ndim == 1 else example.samples.mean(axis=1)
    return described(soxr.resample(samples, example.sample_rate_hz, RATE_HZ), folder, example.name)


def share(right: Iterable[bool]) -> float:
    return float(np.mean(list(right)))


def test_loops_of_the_exam_have_their_tempo_or_an_octave(scratch: Path) -> None:
    judged = decided_examples(make_music.loops(SEED), 24, scratch)
    assert share(is_octave_of(example.bpm, description.bpm) for example, description in judged) >= 0.9


def test_one_shots_and_noises_of_the_exam_have_no_tempo(scratch: Path) -> None:
    judged = decided_examples(make_music.one_shots_and_noises(SEED), 24, scratch)
    assert share(description.bpm is None for _, description in judged) >= 0.9


def test_music_of_the_exam_has_its_key(scratch: Path) -> None:
    judged = decided_examples(make_music.keyed_music(SEED), 24, scratch)
    assert share(description.key == example.key for example, description in judged) >= 0.8


def test_drums_and_noises_of_the_exam_have_no_key(scratch: Path) -> None:
    judged = decided_examples(make_music.keyless(SEED), 12, scratch)
    assert share(description.key is None for _, description in judged) >= 0.9
