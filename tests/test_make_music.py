"""The exam itself is examined: what it says about its examples is counted and measured, not looked up."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import PurePosixPath

import numpy as np
import pytest

import make_music as maker
from make_music import EXAMS, FORMS, GROUPS, KEYS, LOOP_KINDS, TIMBRES, Example, cut_of, dice
from make_stems import NOTES

SEED = 5


@pytest.fixture(scope="module")
def some() -> list[Example]:
    """A few of each exam, rendered once for all tests."""
    return [example for make, _ in EXAMS.values() for example in make(SEED, 12)]


@pytest.fixture(scope="module")
def some_loops(some: list[Example]) -> list[Example]:
    return [example for example in some if example.group in GROUPS]


@pytest.mark.parametrize("exam", EXAMS)
def test_the_same_seed_gives_the_same_samples_another_seed_others(exam: str) -> None:
    make, _ = EXAMS[exam]
    for first, again, other in zip(make(SEED, 2), make(SEED, 2), make(SEED + 1, 2), strict=True):
        assert (first.name, first.bpm, first.key) == (again.name, again.bpm, again.key)
        np.testing.assert_array_equal(first.samples, again.samples)
        assert not np.array_equal(first.samples, other.samples)


def test_samples_are_finite_within_one_and_not_silent(some: list[Example]) -> None:
    for example in some:
        assert example.samples.dtype == np.float32
        assert np.isfinite(example.samples).all(), example.name
        assert 0.05 < np.max(np.abs(example.samples)) <= 1, example.name


def test_names_are_relative_wav_paths_and_no_two_are_the_same() -> None:
    for index in range(300):
        path = PurePosixPath(maker.shot_name(SEED, "one-shot", index, "kick"))
        assert path.suffix == ".wav"
        assert not path.is_absolute()
    assert len({maker.shot_name(SEED, "one-shot", index, "kick") for index in range(600)}) == 600


def test_loops_last_2_to_20_seconds(some_loops: list[Example]) -> None:
    assert all(1.99 < loop.duration_s < 20.01 for loop in some_loops)


def test_a_loop_of_the_group_bars_lasts_whole_bars_to_the_sample(some_loops: list[Example]) -> None:
    whole = [loop for loop in some_loops if loop.group == "bars"]
    for loop in whole:
        assert loop.bpm is not None
        assert loop.bars in (1, 2, 4, 8)
        assert abs(len(loop.samples) - loop.bars * 240 / loop.bpm * loop.sample_rate_hz) <= 0.5
    assert whole


@pytest.mark.parametrize("bpm", [60, 93, 128, 174, 200])
def test_a_loop_of_the_group_audio_never_lasts_whole_bars(bpm: int) -> None:
    for number in range(200):
        cut = cut_of("audio", 240 / bpm, dice(SEED, "cut", number))
        bars = (cut.end_s - cut.start_s) * bpm / 240
        assert abs(bars - round(bars)) > 0.05
        assert cut.end_s <= cut.bars * 240 / bpm + 0.9 * 240 / bpm + 1e-9  # no more than a bar's tail of nothing


@pytest.fixture
def nothing_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten samples instead of each sound: for what the names and the labels say of all examples."""
    monkeypatch.setattr(maker, "loop_sound", lambda *_: np.ones(10))
    monkeypatch.setattr(maker, "play", lambda *_: np.ones(10))
    monkeypatch.setattr(maker, "reverberated", lambda dry, *_: dry)
    monkeypatch.setattr(maker, "finished", lambda *_: np.ones(10, np.float32))


@pytest.mark.usefixtures("nothing_is_rendered")
def test_groups_and_kinds_of_loops_are_equally_frequent_and_all_tempos_occur() -> None:
    loops = list(maker.loops(SEED))
    assert Counter(loop.group for loop in loops) == dict.fromkeys(GROUPS, 100)
    assert Counter(loop.kind for loop in loops) == dict.fromkeys(LOOP_KINDS, 100)
    assert all(count >= 30 for count in Counter((loop.group, loop.kind) for loop in loops).values())
    tempos = [loop.bpm for loop in loops if loop.bpm]
    assert len(tempos) == 300
    assert 60 <= min(tempos) < 70
    assert 190 < max(tempos) <= 200
    assert min(np.histogram(tempos, [60, 80, 100, 120, 140, 160, 180, 201])[0]) >= 5  # hardly a pack is faster than 180


def numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


@pytest.mark.usefixtures("nothing_is_rendered")
def test_only_names_of_the_group_name_hold_a_number_that_could_be_their_tempo() -> None:
    loops = list(maker.loops(SEED))
    assert len({loop.name for loop in loops}) == 300
    for loop in loops:
        assert loop.bpm is not None
        near = [n for n in numbers(loop.name) if any(abs(n / (f * loop.bpm) - 1) < 0.05 for f in (0.5, 1, 2))]
        if loop.group == "name":
            assert loop.bpm in near, loop.name
        else:
            assert not near, (loop.name, loop.bpm)
            assert "bpm" not in loop.name.lower()


@pytest.mark.usefixtures("nothing_is_rendered")
def test_one_shots_and_keyless_sounds_have_neither_tempo_nor_key_to_tell() -> None:
    shots, keyless = (list(make(SEED, 20)) for make in (maker.one_shots_and_noises, maker.keyless))
    assert {(example.bpm, example.key) for example in shots + keyless} == {(None, None)}
    assert {example.kind for example in shots} == set(maker.SHOT_KINDS)
    assert {example.kind for example in keyless} == set(maker.KEYLESS_KINDS)


@pytest.mark.usefixtures("nothing_is_rendered")
def test_every_key_has_every_timbre_in_every_form() -> None:
    pieces = Counter((piece.key, piece.timbre, piece.group) for piece in maker.keyed_music(SEED))
    assert pieces == {(key, timbre, form): 1 for key in KEYS for timbre in TIMBRES for form in FORMS}


def test_no_two_keys_share_the_same_chords() -> None:
    keys = defaultdict(set)
    for key in KEYS:
        for changes in maker.PROGRESSIONS["m" if key.endswith("m") else ""]:
            keys[frozenset(chord.name.removesuffix("7") for chord in maker.chords_of(changes, key))].add(key)
    shared = {chords: names for chords, names in keys.items() if len(names) > 1}
    assert not shared


def test_progressions_and_melodies_end_on_the_tonic_chord() -> None:
    for key in KEYS:
        mode = "m" if key.endswith("m") else ""
        for changes in maker.PROGRESSIONS[mode] + maker.MELODY_PLANS[mode]:
            assert maker.chords_of(changes, key)[-1].name == key


@pytest.mark.parametrize("key", KEYS)
def test_melodies_rest_on_the_tonic_and_keep_to_the_scale(key: str) -> None:
    tonic = NOTES.index(key.removesuffix("m"))
    scale = {0, 2, 3, 5, 7, 8, 10, 11} if key.endswith("m") else {0, 2, 4, 5, 7, 9, 11}  # minor: the leading note too
    for changes in maker.MELODY_PLANS["m" if key.endswith("m") else ""]:
        chords = maker.chords_of(changes, key)
        for number in range(10):
            notes = maker.melody(dice(SEED, key, number), key, chords, 62.0, 8.0)
            steps = [(note.midi - tonic) % 12 for note in notes]
            assert set(steps) <= scale
            assert steps[-1] == 0
            assert notes[-1].held_s == max(note.held_s for note in notes)
            assert {0, 3 if key.endswith("m") else 4, 7} <= set(steps)


def test_a_note_sounds_at_its_pitch() -> None:
    for make in TIMBRES.values():
        sound = maker.note(make(dice(SEED, "timbre", 0)), maker.midi_hz(57), 2.0, 44_100)
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(sound.size)))
        hz = np.fft.rfftfreq(sound.size, 1 / 44_100)
        loudest = hz[spectrum.argmax()] / 220
        assert abs(loudest - round(loudest)) < 0.01
        assert spectrum[(hz > 215) & (hz < 225)].max() > 0.05 * spectrum.max()


def test_drums_of_a_straight_groove_start_on_the_grid() -> None:
    style = maker.STYLES[10]
    groove = maker.Groove(style, 120.0, 0.5, 0.0, 2, 44_100, SEED, dice(SEED, "grid", 0))
    starts = [start_s for start_s, _, _, _ in groove.hits("X...X...X...X...")]
    np.testing.assert_allclose(starts, np.arange(8) * 0.5, atol=1e-12)


def test_swing_delays_the_second_of_two_sixteenths_or_eighths() -> None:
    for swung_steps, late in ((1, 1), (2, 2)):
        style = maker.STYLES[0]._replace(swung_steps=swung_steps)
        groove = maker.Groove(style, 60.0, 2 / 3, 0.0, 1, 44_100, SEED, dice(SEED, "swing", 0))
        assert groove.at_s(0, late) == pytest.approx(2 / 3 * 2 * swung_steps * 0.25)
        assert groove.at_s(0, 2 * late) == pytest.approx(2 * swung_steps * 0.25)
