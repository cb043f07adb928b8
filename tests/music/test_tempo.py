"""Tempo, and loop or one-shot."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pack_names import UNEXAMINED, PackName, read_table
from rhythms import RATE_HZ, beats, described, is_octave_of, read
from stem_dataset.datatypes import UNKNOWN_CATEGORY, NameFacts, Rhythm, Tempo
from stem_dataset.music.tempo import MIN_RHYTHM_S, decide_tempo, estimate_rhythm, regularity_at, tempo_candidates

Float32 = npt.NDArray[np.float32]


FRAMES_A_S = RATE_HZ / 512


def rhythm_in(onsets: Float32, duration_s: float, name: NameFacts | None = None, center_bpm: float = 120.0) -> Rhythm:
    """Return what is heard in `onsets`, shape (3, frames), and nothing else."""
    tempi = tempo_candidates(onsets, center_bpm) if duration_s >= MIN_RHYTHM_S else []
    return estimate_rhythm(name or NameFacts(), tempi, duration_s)


def rhythm(*bpm: float, duration_s: float = 7.3, is_loop: bool | None = True) -> Rhythm:
    """Return what the audio says where it may have these tempi, best first, one in likelihood behind the other. The
    length is whole bars at none of the usual tempi, unless it is given."""
    return Rhythm(duration_s, [Tempo(tempo, 0.8, -0.5 * place) for place, tempo in enumerate(bpm)], is_loop)


def bpm_of(path: str, heard: Rhythm) -> float | None:
    return decide_tempo(read(path), heard)[0]


@pytest.mark.parametrize("row", read_table(), ids=lambda row: row.path)
def test_name_of_a_pack_tells_what_a_producer_reads(row: PackName) -> None:
    name = read(row.path)
    bpm = bpm_of(
        row.path, Rhythm(row.duration_s, [Tempo(row.audio_bpm, 0.8, 0.0)] if row.audio_bpm else [], row.is_loop)
    )
    assert bpm == (row.bpm and pytest.approx(row.bpm, rel=0.005))
    assert row.key in (UNEXAMINED, name.key)
    assert row.category in (UNEXAMINED, name.category or UNKNOWN_CATEGORY)


def test_stated_tempo_beats_the_bars_which_beat_the_audio() -> None:
    four_bars_at_120 = rhythm(120.5, 89, duration_s=8.0)
    assert decide_tempo(NameFacts(stated_bpm=97.0), four_bars_at_120) == (97.0, "name")
    assert decide_tempo(NameFacts(), four_bars_at_120) == (120.0, "bars")
    assert decide_tempo(NameFacts(), rhythm(120.53, 89)) == (120.5, "audio")


@pytest.mark.parametrize(
    ("name", "bpm"),
    [
        ("Loop 120bpm", 120),
        ("Loop 87.5 BPM", 87.5),
        ("Loop_92,5bpm", 92.5),
        ("bpm_174 Loop", 174),
        ("[BPM140]", 140),
        ("Loop 100_bpm_02", 100),
        ("174 Kit/Loop bpm-170", 170),
        ("Loops 128 BPM/Am_Bell", 128),
        ("Loops 128 BPM/Bell 100bpm", 100),
        ("Drums 01 BPM 120", 120),
        ("Drums BPM 120 44", 120),
        ("Loop 33 - 124 BPM", 124),
        ("loop-44-128bpm", 128),
        ("90BPMLoop", 90),
        ("Loops 120-130 BPM/Loop 126bpm", 126),
        ("gabber 300bpm", 300),
        ("BPM070 Loop", 70),
    ],
)
def test_tempo_with_its_unit_is_believed_of_a_loop(name: str, bpm: float) -> None:
    assert decide_tempo(read(f"{name}.wav"), rhythm()) == (bpm, "name")


@pytest.mark.parametrize("bpm", ["10", "29", "301", "999", "1200"])
def test_stated_number_that_is_no_tempo_is_not_believed(bpm: str) -> None:
    assert bpm_of(f"Loop {bpm}bpm.wav", rhythm()) is None


@pytest.mark.parametrize("name", ["Loop 140bpm 70bpm", "90bpm to 110bpm", "140 BPM (bpm 70)", "120-130bpm"])
def test_two_stated_tempi_in_one_name_are_neither_believed(name: str) -> None:
    assert read(f"{name}.wav").stated_bpm is None
    assert decide_tempo(read(f"{name}.wav"), rhythm(101.3)) == (101.3, "audio")


def test_same_tempo_stated_twice_is_one() -> None:
    assert bpm_of("120bpm Loop 120 BPM.wav", rhythm(90)) == 120


@pytest.mark.parametrize("audio_bpm", [128, 126.4, 130.2, 64.1, 255])
def test_bare_number_counts_where_the_audio_has_it_or_an_octave(audio_bpm: float) -> None:
    assert decide_tempo(read("Loops/Jackin_128_Riff.wav"), rhythm(audio_bpm)) == (128, "name")


@pytest.mark.parametrize("bars", [1, 2, 4, 8, 16])
def test_bare_number_counts_where_the_length_is_whole_bars_at_it(bars: int) -> None:
    assert decide_tempo(read("Loops/Jackin_128_Riff.wav"), rhythm(duration_s=bars * 240 / 128)) == (128, "name")


@pytest.mark.parametrize("audio_bpm", [67.5, 17])
def test_small_number_is_no_octave_of_the_audio(audio_bpm: float) -> None:
    assert decide_tempo(read("Loops/UK Garage Neon 34.wav"), rhythm(audio_bpm)) == (audio_bpm, "audio")
    assert decide_tempo(read("Loops/Doom Neon 34.wav"), rhythm(34.2)) == (34, "name")


def test_bare_number_does_not_count_where_nothing_bears_it_out() -> None:
    assert bpm_of("loop_120.wav", rhythm()) is None
    assert decide_tempo(read("loop_120.wav"), rhythm(101.3)) == (101.3, "audio")
    assert bpm_of("Loop_128.wav", rhythm(duration_s=3.3 * 240 / 128)) is None
    assert bpm_of("Loop_128.wav", rhythm(duration_s=3 * 240 / 128 + 0.05)) is None


def test_number_that_is_borne_out_is_taken_from_several() -> None:
    assert bpm_of("Pack 45/Loop 99_128_64.wav", rhythm(127.1)) == 128


@pytest.mark.parametrize(
    "name",
    [
        "Live 1998",
        "Rec 44100",
        "x 96k",
        "Bass C120",
        "Synth F#90",
        "x 24bit",
        "TR808",
        "SH101",
        "JX-101",
        "Vol.100",
        "x100",
    ],
)
def test_number_of_another_meaning_is_no_tempo_whatever_the_audio_has(name: str) -> None:
    assert read(f"{name}.wav").numbers == ()
    digits = "".join(filter(str.isdigit, name))
    assert decide_tempo(read(f"{name}.wav"), rhythm(float(digits)))[1] == "audio"


def test_one_shot_has_no_tempo_though_its_name_and_its_length_state_one() -> None:
    assert decide_tempo(read("Kick_128bpm.wav"), rhythm(128, duration_s=1.875, is_loop=False)) == (None, None)


def test_whole_number_is_preferred_among_the_octaves_that_the_bars_offer() -> None:
    assert decide_tempo(NameFacts(), rhythm(86.5, 173, duration_s=8 * 240 / 173)) == (173, "bars")
    assert decide_tempo(NameFacts(), rhythm(86, 172, duration_s=8 * 240 / 172)) == (86, "bars")


def test_audio_is_not_snapped_to_bars_two_percent_off() -> None:
    assert decide_tempo(NameFacts(), rhythm(120 * 1.02, duration_s=8.0)) == (122.4, "audio")
    assert decide_tempo(NameFacts(), rhythm(120 * 1.01, duration_s=8.0)) == (120, "bars")


def test_bars_of_an_unlikely_tempo_do_not_beat_a_likely_one() -> None:
    likely, unlikely = Tempo(101.3, 0.8, 0.0), Tempo(120.0, 0.8, -10.0)
    assert decide_tempo(NameFacts(), Rhythm(8.0, [likely, unlikely], True)) == (101.3, "audio")


def test_song_over_a_minute_is_neither_snapped_nor_called_a_loop(tmp_path: Path) -> None:
    assert decide_tempo(NameFacts(), rhythm(120.4, duration_s=64.0, is_loop=None)) == (120.4, "audio")
    assert decide_tempo(NameFacts(numbers=(90.0,)), rhythm(120.4, duration_s=64.0, is_loop=None)) == (120.4, "audio")
    song = described(beats(120, 62.0), tmp_path)
    assert song.bpm is not None
    assert is_octave_of(120, song.bpm)
    assert song.features["is_loop"] is None
    assert song.features["bpm_source"] == "audio"


@pytest.mark.parametrize("center_bpm", [75, 150])
def test_octave_of_a_plain_pulse_follows_the_centre_of_the_library(center_bpm: float) -> None:
    onsets = np.zeros((3, round(12.1 * FRAMES_A_S)), np.float32)
    onsets[:, np.arange(0, onsets.shape[1], FRAMES_A_S * 60 / 150).astype(int)] = 1
    heard = rhythm_in(onsets, 12.1, center_bpm=center_bpm)
    assert heard.tempi[0].bpm == pytest.approx(center_bpm, rel=0.02)
    assert {True} == {any(abs(tempo.bpm / other - 1) < 0.02 for tempo in heard.tempi) for other in (75, 150)}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 94, 400])
@pytest.mark.parametrize("duration_s", [0.001, 1.0, 90.0])
def test_rhythm_of_few_frames_without_onsets_is_none(frames: int, duration_s: float) -> None:
    assert rhythm_in(np.zeros((3, frames), np.float32), duration_s).tempi == []


tempi = st.builds(Tempo, st.floats(55, 220), st.floats(0, 1), st.floats(-50, 50))


rhythms = st.builds(
    Rhythm,
    st.floats(1 / 768_000, 1e6),
    st.lists(tempi, max_size=4).map(lambda found: sorted(found, key=lambda tempo: -tempo.score)),
    st.sampled_from([True, False, None]),
)


numbers = st.floats(30, 300)


@given(st.builds(NameFacts, st.none() | numbers, st.lists(numbers, max_size=3).map(tuple)), rhythms)
def test_tempo_is_none_or_a_finite_number_above_zero(name: NameFacts, heard: Rhythm) -> None:
    bpm, source = decide_tempo(name, heard)
    assert (bpm is None) == (source is None)
    assert bpm is None or (math.isfinite(bpm) and 30 <= bpm <= 300)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), st.integers(0, 2**32 - 1), st.floats(0.01, 0.9), st.floats(1.0, 20.0))
def test_any_onsets_give_finite_tempi_best_first(frames: int, seed: int, density: float, duration_s: float) -> None:
    dice = np.random.default_rng(seed)
    onsets = (dice.random((3, frames)) * (dice.random((3, frames)) < density)).astype(np.float32)
    heard = rhythm_in(onsets, duration_s).tempi
    assert [tempo.score for tempo in heard] == sorted((tempo.score for tempo in heard), reverse=True)
    assert all(math.isfinite(value) for tempo in heard for value in dataclasses.astuple(tempo))


def test_confidence_of_a_tempo_is_how_regular_the_audio_is_at_it() -> None:
    heard = Rhythm(8.0, [Tempo(120, 0.7, 0.0), Tempo(90, 0.4, -1.0)], True)
    assert regularity_at(121, heard) == 0.7
    assert regularity_at(90, heard) == 0.4
    assert regularity_at(101, heard) is None
    assert regularity_at(None, heard) is None


PULSE = np.tile(np.arange(47) == 0, (3, 16)).astype(np.float32)  # eight seconds of clicks at 120


NO_PULSE = np.zeros_like(PULSE)


@pytest.mark.parametrize("onsets", [PULSE, NO_PULSE], ids=["a pulse", "none"])
@pytest.mark.parametrize("told", [True, False])
def test_word_beats_the_pulse(told: bool, onsets: Float32) -> None:
    assert rhythm_in(onsets, 8.0, NameFacts(is_loop=told)).is_loop is told


def test_word_for_a_loop_tells_nothing_of_what_is_too_short_for_one() -> None:
    assert rhythm_in(NO_PULSE, 0.4, NameFacts(is_loop=True)).is_loop is False
    assert rhythm_in(NO_PULSE, 0.6, NameFacts(is_loop=True)).is_loop is True


def test_whole_bars_at_the_stated_tempo_make_a_loop_without_a_pulse() -> None:
    assert rhythm_in(NO_PULSE, 8.0, NameFacts(stated_bpm=120.0)).is_loop is True
    assert rhythm_in(NO_PULSE, 8.0, NameFacts(stated_bpm=125.0)).is_loop is False
    assert rhythm_in(NO_PULSE, 8.0, NameFacts(numbers=(120.0,))).is_loop is False
    assert rhythm_in(NO_PULSE, 8.0, NameFacts(stated_bpm=120.0, is_loop=False)).is_loop is False


@pytest.mark.parametrize("bpm", [100, 110, 120, 128, 140])
def test_loop_of_nothing_but_kicks_is_not_taken_for_half_its_tempo(bpm: int) -> None:
    onsets = np.zeros((3, round(10.3 * FRAMES_A_S)), np.float32)
    onsets[0, np.rint(np.arange(0, onsets.shape[1] - 1, FRAMES_A_S * 60 / bpm)).astype(int)] = 1
    onsets[0] = np.convolve(onsets[0], np.hanning(5) / 2, "same")
    # Slow kicks alone may be every second beat.
    expected = [pytest.approx(bpm, rel=0.02)] + ([pytest.approx(2 * bpm, rel=0.02)] if bpm < 120 else [])
    assert rhythm_in(onsets, 10.3).tempi[0].bpm in expected


def bar_of_strengths(rows: tuple[str, str, str], step_s: float, duration_s: float) -> Float32:
    """Return the onsets of a bar that repeats: for each band a row of steps, with "X" loud, "x" soft and "." none."""
    onsets = np.zeros((3, round(duration_s * FRAMES_A_S)), np.float32)
    for band, row in enumerate(rows):
        for step in range(int(duration_s / step_s)):
            frame = round(step * step_s * FRAMES_A_S)
            if frame < onsets.shape[1]:
                onsets[band, frame] = {"X": 1.0, "x": 0.6, ".": 0.0}[row[step % len(row)]]
        onsets[band] = np.convolve(onsets[band], np.hanning(5) / 2, "same")
    return onsets


@pytest.mark.parametrize("bpm", [80, 92, 105, 118, 130])
@pytest.mark.parametrize("bar", [("X..X..", "XxxX.x", "......"), ("X..x..", "XxxXxx", "X.xX.x")], ids=["jig", "drums"])
def test_beat_of_a_jig_is_three_eighths(bar: tuple[str, str, str], bpm: int) -> None:
    heard = rhythm_in(bar_of_strengths(bar, 60 / bpm / 3, 14.3), 14.3)
    assert heard.tempi[0].bpm == pytest.approx(bpm, rel=0.02)


@pytest.mark.parametrize("bpm", [80, 92, 105, 118, 130])
def test_beat_of_a_march_is_two_eighths(bpm: int) -> None:
    bar = ("X...X...", "X.xxX.x.", "x.x.x.x.")
    heard = rhythm_in(bar_of_strengths(bar, 60 / bpm / 2, 14.3), 14.3)
    assert is_octave_of(bpm, heard.tempi[0].bpm)


def test_pulse_tells_where_the_names_do_not() -> None:
    assert rhythm_in(PULSE, 8.0).is_loop is True
    assert rhythm_in(NO_PULSE, 8.0).is_loop is False
    assert rhythm_in(PULSE, 61.0).is_loop is None
    assert rhythm_in(NO_PULSE, 11.0).is_loop is None


def test_what_is_called_a_loop_needs_a_less_regular_pulse() -> None:
    tempi = [Tempo(120.0, 0.25, 0.0)]
    assert estimate_rhythm(NameFacts(), tempi, 4.0).tempi == []
    assert estimate_rhythm(NameFacts(is_loop=True), tempi, 4.0).tempi == tempi


@pytest.mark.parametrize(
    ("own", "other_bpm", "other", "has_pulse"),
    [
        (0.2, 60, 0.5, True),
        (0.2, 240, 0.5, True),
        (0.2, 90, 0.5, False),
        (0.2, 60, 0.2, False),
        (0.1, 60, 0.9, False),
    ],
)
def test_weak_beat_is_a_pulse_where_its_half_or_double_is_strong(
    own: float, other_bpm: float, other: float, has_pulse: bool
) -> None:
    tempi = [Tempo(120, own, 0.0), Tempo(other_bpm, other, -1.0)]
    assert estimate_rhythm(NameFacts(), tempi, 4.0) == Rhythm(4.0, tempi if has_pulse else [], has_pulse)
