"""The key of a sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhythms import C_MAJOR, chords, measured, read
from sounds import RATE_HZ, SECOND_S, Float64, analysed, clicks, sine
from stem_dataset.datatypes import NameFacts
from stem_dataset.music.features import PITCH_CLASS_STEPS
from stem_dataset.music.key import (
    KEY_NAMES,
    MIN_KEY_CONFIDENCE,
    decide_key,
    estimate_keys,
    single_pitch_hz,
    tuned_chroma,
)
from stem_dataset.music.name_key import NOTE_NAMES

PARTIALS = 8


NOTES_HZ = [27.5 * 2 ** (step / 6.1) for step in range(38)]  # to 1,845 Hz, at all distances from a bin and a lag


def harmonic_note(hz: float, inharmonicity: float = 0.0, decay: float = 0.0, tilt: float = 1.0) -> Float64:
    """Return a second of a note: partial k at k·hz·√(1 + B·k²) (Fletcher, "Normal vibration frequencies of a stiff
    piano string", 1964), 1/k^tilt loud, fading faster the higher it is."""
    note = np.zeros(RATE_HZ)
    for k in range(1, PARTIALS + 1):
        partial_hz = k * hz * math.sqrt(1 + inharmonicity * k**2)
        if partial_hz < RATE_HZ / 2:
            note += np.exp(-decay * (1 + k) * SECOND_S) * np.sin(2 * np.pi * partial_hz * SECOND_S) / k**tilt
    return 0.2 * note


def saw(hz: float) -> Float64:
    """Return a second of a saw, without aliases."""
    partials = range(1, int(20_000 / hz) + 1)
    return np.asarray(0.2 * np.sum([np.sin(2 * np.pi * k * hz * SECOND_S) / k for k in partials], axis=0))


TIMBRES: dict[str, Callable[[float], Float64]] = {
    "sine": sine,
    "saw": saw,
    "piano": lambda hz: harmonic_note(hz, inharmonicity=1e-4, decay=1.0, tilt=1.5),
    "stiff string": lambda hz: harmonic_note(hz, inharmonicity=2e-4),
}


def pitch_of(samples: npt.ArrayLike, folder: Path) -> float | None:
    return single_pitch_hz(analysed(samples, folder))


@pytest.mark.parametrize("timbre", TIMBRES)
def test_a_single_note_gets_its_pitch_within_twenty_cents(folder: Path, timbre: str) -> None:
    heard = {hz: pitch_of(TIMBRES[timbre](hz), folder) for hz in (*NOTES_HZ, 1_046.5, 2_000.0)}
    cents = {hz: None if pitch is None else 1200 * math.log2(pitch / hz) for hz, pitch in heard.items()}
    assert {hz: off for hz, off in cents.items() if off is None or abs(off) > 20} == {}


def test_a_short_and_a_quiet_note_have_a_pitch_too(folder: Path) -> None:
    assert pitch_of(saw(110)[: RATE_HZ // 5], folder) == pytest.approx(110, rel=0.01)
    assert pitch_of(0.001 * saw(110), folder) == pytest.approx(110, rel=0.001)
    assert pitch_of(np.concatenate([saw(110), np.zeros(5 * RATE_HZ)]), folder) == pytest.approx(110, rel=0.001)


def notes(*numbers: int, shape: Any = harmonic_note) -> Float64:
    """Return a second of the MIDI notes together."""
    return np.asarray(sum(0.5 * shape(440 * 2 ** ((number - 69) / 12)) for number in numbers))


@pytest.mark.parametrize("shape", [harmonic_note, sine, saw])
@pytest.mark.parametrize("root", [36, 48, 60, 72])
@pytest.mark.parametrize("intervals", [(0, 4, 7), (0, 3, 7), (0, 4, 7, 11), (0, 5, 9)])
def test_a_chord_has_no_single_pitch(folder: Path, intervals: Sequence[int], root: int, shape: Any) -> None:
    assert pitch_of(notes(*(root + interval for interval in intervals), shape=shape), folder) is None


@pytest.mark.parametrize("shape", [harmonic_note, sine, saw])
@pytest.mark.parametrize("root", [48, 60, 72])
def test_a_fifth_does_not_get_the_pitch_of_the_root_that_nobody_plays(folder: Path, root: int, shape: Any) -> None:
    """Together they repeat an octave under the lower one."""
    assert pitch_of(notes(root, root + 7, shape=shape), folder) is None


def test_a_melody_noise_clicks_and_silence_have_no_pitch(folder: Path) -> None:
    melody = np.concatenate([notes(60 + step)[: RATE_HZ // 4] for step in (0, 2, 4, 5, 7, 9, 11, 12)])
    noise = 0.1 * np.random.default_rng(1).standard_normal(2 * RATE_HZ)
    for samples in (melody, noise, clicks(240, 2), np.zeros(RATE_HZ), [0.5]):
        assert pitch_of(samples, folder) is None


def cadence(degrees: Sequence[Sequence[int]], cents: float) -> Float64:
    """Return chords of MIDI notes one after another, all of them `cents` too high."""
    tuning = 2 ** (cents / 1200)
    chords = [notes(*chord, shape=lambda hz: harmonic_note(hz * tuning)) for chord in degrees]
    return np.asarray(np.concatenate(chords))


CADENCES = {
    "C": ((60, 64, 67), (65, 69, 72), (67, 71, 74), (60, 64, 67)),
    "F#": ((66, 70, 73), (59, 63, 66), (61, 65, 68), (66, 70, 73)),
    "Am": ((57, 60, 64), (62, 65, 69), (64, 68, 71), (57, 60, 64)),
    "D#m": ((63, 66, 70), (56, 59, 63), (58, 62, 65), (63, 66, 70)),
}


@pytest.mark.parametrize("cents", [-40, -20, 0, 15, 30, 42])
@pytest.mark.parametrize("key", CADENCES)
def test_a_detuned_cadence_keeps_its_key(folder: Path, key: str, cents: float) -> None:
    confidences = estimate_keys(analysed(cadence(CADENCES[key], cents), folder).pitch_classes)
    assert KEY_NAMES[int(confidences.argmax())] == key
    assert confidences.max() > MIN_KEY_CONFIDENCE


A_MINOR, D_MAJOR, F_MAJOR, G_MAJOR = (57, 60, 64), (54, 57, 62), (57, 60, 65), (55, 59, 62)
FLAT_SEVENTHS = {
    "minor": (A_MINOR, G_MAJOR, A_MINOR, G_MAJOR, A_MINOR),
    "natural minor": (A_MINOR, G_MAJOR, F_MAJOR, G_MAJOR, A_MINOR),
    "Dorian": (A_MINOR, D_MAJOR, G_MAJOR, A_MINOR, G_MAJOR, D_MAJOR, A_MINOR, A_MINOR),
}


@pytest.mark.parametrize("mode", FLAT_SEVENTHS)
def test_a_minor_with_chords_of_g_is_not_g_major(folder: Path, mode: str) -> None:
    confidences = estimate_keys(analysed(cadence(FLAT_SEVENTHS[mode], 0), folder).pitch_classes)
    assert KEY_NAMES[int(confidences.argmax())] == "Am"
    assert confidences.max() > MIN_KEY_CONFIDENCE


def test_a_high_harmonic_counts_less_than_an_equally_loud_note(folder: Path) -> None:
    def share_of_e(hz: float) -> float:
        chroma, _ = tuned_chroma(analysed(sine(440) + sine(hz), folder).pitch_classes)
        return float(chroma[NOTE_NAMES.index("E")] / chroma.sum())

    assert share_of_e(330) == pytest.approx(0.5, abs=0.02)
    assert share_of_e(1_320) == pytest.approx(0.28, abs=0.03)  # 500 / 1,320 as much
    assert share_of_e(5_274) < 0.01


def test_a_quiet_half_counts_as_much_as_a_loud_one(folder: Path) -> None:
    for gain in (0.1, 1.0, 10.0):
        halves = np.concatenate([sine(220), sine(220), gain * sine(330), gain * sine(330)])
        chroma, _ = tuned_chroma(analysed(0.05 * halves, folder).pitch_classes)
        shares = chroma[[NOTE_NAMES.index("A"), NOTE_NAMES.index("E")]] / chroma.sum()
        assert shares == pytest.approx([0.5, 0.5], abs=0.15)


@pytest.mark.parametrize("heard", [(9,), (9, 4)], ids=["one note", "a fifth"])
def test_one_note_or_two_leave_the_key_open(heard: Sequence[int]) -> None:
    pitch_classes = np.zeros(PITCH_CLASS_STEPS)
    pitch_classes[[10 * note for note in heard]] = 1.0
    assert estimate_keys(pitch_classes).max() < MIN_KEY_CONFIDENCE


@pytest.mark.parametrize("cents", range(-40, 50, 10))
def test_a_detuned_note_falls_into_its_own_class(cents: int) -> None:
    pitch_classes = np.zeros(PITCH_CLASS_STEPS)
    pitch_classes[cents // 10] = 2.0  # from A on
    pitch_classes[30 + cents // 10] = 1.0  # C
    chroma, in_tune = tuned_chroma(pitch_classes)
    expected = {"A": 2.0, "C": 1.0}
    assert chroma == pytest.approx([expected.get(note, 0.0) for note in NOTE_NAMES])
    assert in_tune == pytest.approx(1)


def test_what_lies_evenly_between_the_notes_is_in_no_tune() -> None:
    assert tuned_chroma(np.ones(PITCH_CLASS_STEPS))[1] == pytest.approx(0, abs=1e-9)
    assert not estimate_keys(np.zeros(PITCH_CLASS_STEPS)).any()
    assert estimate_keys(np.ones(PITCH_CLASS_STEPS)).max() < 0.01


def test_named_key_beats_the_audio_and_its_confidence_is_what_the_audio_says(tmp_path: Path) -> None:
    heard = measured(chords(*C_MAJOR), tmp_path)
    heard_keys = estimate_keys(heard.pitch_classes).tolist()
    confidences = dict(zip(KEY_NAMES, heard_keys, strict=True))
    assert decide_key(NameFacts(), heard_keys, None, heard.duration_s) == ("C", confidences["C"], "audio")
    assert confidences["C"] > 0.7
    for key in ("F#", "G"):
        assert decide_key(NameFacts(key=key), heard_keys, None, 4.0) == (key, confidences[key], "name")
    assert confidences["F#"] < confidences["G"] < confidences["C"]


def test_root_in_the_name_leaves_the_mode_to_the_audio(tmp_path: Path) -> None:
    heard = measured(chords(*C_MAJOR), tmp_path)
    heard_keys = estimate_keys(heard.pitch_classes).tolist()
    confidences = dict(zip(KEY_NAMES, heard_keys, strict=True))
    assert confidences["C"] > confidences["Am"] > confidences["A"]
    assert decide_key(NameFacts(key_root="A"), heard_keys, None, 4.0) == ("Am", confidences["Am"], "audio")
    assert decide_key(NameFacts(key_root="F#"), heard_keys, None, 4.0) == (None, None, None)
    assert decide_key(NameFacts(key_root="A"), heard_keys, 110.0, 4.0) == (None, None, None)


@pytest.mark.parametrize("cents", [-40, -10, 0, 30])
def test_notes_of_another_tuning_count_in_full(cents: int) -> None:
    pitch_classes = np.zeros(120)
    pitch_classes[[cents // 10, 30 + cents // 10]] = [2, 1]  # A and C
    chroma, in_tune = tuned_chroma(pitch_classes)
    assert chroma == pytest.approx([1, *[0] * 8, 2, 0, 0])
    assert in_tune == pytest.approx(1)


@pytest.mark.filterwarnings("error")
@given(st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=120, max_size=120))
def test_confidence_of_every_key_lies_within_0_and_1(pitch_classes: list[float]) -> None:
    confidences = estimate_keys(np.array(pitch_classes))
    assert confidences.shape == (24,)
    assert ((confidences >= 0) & (confidences <= 1 + 1e-9)).all()


names = st.text(st.characters(blacklist_characters="\0", blacklist_categories=())) | st.lists(
    st.sampled_from(
        ["120", "bpm", "BPM", " ", "_", "-", ".", "/", "Am", "F#", "b", "min", "key", "\n", "\ud800", "🥁", ".wav"]
    )
).map("".join)


@settings(deadline=None, max_examples=300)
@given(names)
def test_any_name_is_read_and_the_tempo_that_it_states_is_within_30_and_300(name: str) -> None:
    told = read(name)
    assert all(30 <= bpm <= 300 for bpm in (*told.numbers, told.stated_bpm or 30))
    assert told.key is None or told.key in KEY_NAMES
