"""What is measured of the standardised samples: five features, levels, onsets, pitch, and what makes a file poor."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyloudnorm  # type: ignore[import-untyped]  # ships no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from librosa import feature

from audio_files import encode, use_inline_workers
from conftest import REPOSITORY, Workplace
from patching import replace_name
from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import KEPT_SAMPLES, StandardisedAudio
from stem_dataset.config import load_config
from stem_dataset.datatypes import Measurements, NameFacts, SourceFormat
from stem_dataset.music.describe import describe, listen, quality_issues
from stem_dataset.music.features import (
    ANALYSIS_FRAMES,
    BINS,
    PITCH_CLASS_STEPS,
    PITCH_FRAMES,
    PITCH_HOP,
    ROLLOFF_SHARE,
    LoudnessMeter,
    _mel_spectrum,
    analyse,
    onset_strengths,
)
from stem_dataset.music.filenames import NOTE_NAMES
from stem_dataset.music.key import KEY_NAMES, MIN_KEY_CONFIDENCE, hear_keys, single_pitch_hz, tuned_chroma
from vectors import ROUNDING

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

RATE_HZ = 48_000
N_FFT, HOP = 2_048, 512
SPECTRAL = ("spectral_centroid", "spectral_rolloff", "spectral_bandwidth")
FIVE = (*SPECTRAL, "rms", "zero_crossing_rate")
SECOND_S = np.arange(RATE_HZ) / RATE_HZ
CONFIG = load_config(REPOSITORY / "config.yaml", {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def standardised(samples: npt.ArrayLike, folder: Path) -> StandardisedAudio:
    audio = StandardisedAudio(folder)
    audio.append(np.asarray(samples, np.float32))
    audio.finish()
    return audio


def analysed(samples: npt.ArrayLike, folder: Path) -> Measurements:
    with standardised(samples, folder) as audio:
        return analyse(audio)


def sine(hz: float, seconds: float = 1.0, amplitude: float = 0.5) -> Float64:
    return np.asarray(amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ))


def music(seconds: float, seed: int = 0) -> Float32:
    """Return a tone that glides and swells over a little noise, so that no two blocks are alike."""
    seconds_in = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    hz = 200 + 150 * seconds_in
    swell = 0.4 + 0.3 * np.sin(2 * np.pi * 0.3 * seconds_in)
    dice = np.random.default_rng(seed)
    tone = swell * np.sin(2 * np.pi * hz * seconds_in) + 0.02 * dice.standard_normal(len(seconds_in))
    return np.asarray(tone, np.float32)


def clicks(bpm: float, seconds: float) -> Float32:
    """Return a click at each beat: 10 ms of decaying noise."""
    loop = np.zeros(int(seconds * RATE_HZ), np.float32)
    click = np.random.default_rng(1).standard_normal(480) * np.exp(-np.arange(480) / 100)
    for beat in range(int(seconds * bpm / 60)):
        start = round(beat * 60 / bpm * RATE_HZ)
        loop[start : start + 480] = (0.3 * click).astype(np.float32)[: len(loop) - start]
    return loop


# ------------------------------------------------------------------------------------------------------- five features


def librosas_features(samples: Float64) -> dict[str, float]:
    """Return librosa's features of the whole file in one piece, by its defaults for y, n_fft 2048 and hop 512.

    All in float64, so that the rounding is the program's alone.
    """
    sizes: dict[str, Any] = {"n_fft": N_FFT, "hop_length": HOP}
    of_samples = {"y": samples, "sr": RATE_HZ, **sizes}
    features = {
        "spectral_centroid": feature.spectral_centroid(**of_samples),
        "spectral_bandwidth": feature.spectral_bandwidth(**of_samples),
        "rms": feature.rms(y=samples, frame_length=N_FFT, hop_length=HOP),
    }
    means = {name: float(values.mean(dtype=np.float64)) for name, values in features.items()}
    return {**means, "zero_crossing_rate": zero_crossing_rate(samples)}


def librosas_rolloff(samples: Float64, share: float) -> float:
    rolloff = feature.spectral_rolloff(y=samples, sr=RATE_HZ, n_fft=N_FFT, hop_length=HOP, roll_percent=share)
    return float(rolloff.mean(dtype=np.float64))


def zero_crossing_rate(samples: Float64) -> float:
    """Return the mean over the frames by the definition; librosa alone pads this one with the edge's value."""
    padded = np.pad(samples, N_FFT // 2)
    negative = np.signbit(np.where(np.abs(padded) <= 1e-10, 0, padded))
    frames = [negative[start : start + N_FFT] for start in range(0, len(padded) - N_FFT + 1, HOP)]
    return float(np.mean([np.count_nonzero(frame[1:] != frame[:-1]) / N_FFT for frame in frames]))


def assert_like_librosa(samples: Float32, folder: Path) -> None:
    with standardised(samples, folder) as audio:
        measured = analyse(audio)
        exact = audio.samples().astype(np.float64)
        expected = librosas_features(exact)
    features: dict[str, Any] = {name: measured.features[name] for name in FIVE}
    # The program sums up the magnitudes in float32: 41 in a group, and 25 groups. Rounded up to 70 times on either side
    # of the comparison, 85 % may be reached in the bin beside, where that is at its very edge.
    off = 2 * 70 * ROUNDING
    least, most = (librosas_rolloff(exact, ROLLOFF_SHARE * (1 + sign * off)) for sign in (-1, 1))
    assert least * (1 - 1e-12) <= features.pop("spectral_rolloff") <= most * (1 + 1e-12)
    # A magnitude is rounded 3 times, in both sums of a weighted mean; the squares of an RMS 22 times, as numpy adds 512
    # in pairs, of which the root leaves half.
    assert features == pytest.approx(expected, rel=16 * ROUNDING, abs=1e-9)


def test_features_of_a_short_file_equal_librosas(folder: Path) -> None:
    assert_like_librosa(music(0.7), folder)


def test_features_of_a_file_of_several_blocks_equal_librosas(folder: Path) -> None:
    samples = music(66.3)
    assert len(samples) > KEPT_SAMPLES > ANALYSIS_FRAMES * HOP
    assert_like_librosa(samples, folder)


def test_features_of_a_pure_tone_equal_librosas(folder: Path) -> None:
    """Its band is so narrow that the rounding noise of an FFT in float32 would widen it by 1 %."""
    assert_like_librosa(np.sin(2 * np.pi * 87.3 * np.arange(2 * RATE_HZ) / RATE_HZ).astype(np.float32), folder)


def test_features_of_a_loud_hit_and_its_faint_tail_equal_librosas(folder: Path) -> None:
    assert_like_librosa(music(3) * np.geomspace(1, 1e-5, 3 * RATE_HZ).astype(np.float32), folder)


@pytest.mark.filterwarnings("ignore:n_fft=2048 is too large:UserWarning")  # of the oracle
@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 12_000), block_frames=st.integers(1, 9))
def test_features_equal_librosas_wherever_the_blocks_end(folder: Path, length: int, block_frames: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        replace_name(patch, "ANALYSIS_FRAMES", block_frames)
        assert_like_librosa(music(1)[-length:], folder)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("length", [1, N_FFT, 3 * RATE_HZ])
def test_silence_has_no_spectral_features_and_no_level_and_zero_rms_and_crossings(folder: Path, length: int) -> None:
    measured = analysed(np.zeros(length), folder)
    undefined = dict.fromkeys((*SPECTRAL, "peak_dbfs", "loudness_lufs"))
    assert measured.features == {"rms": 0.0, "zero_crossing_rate": 0.0, **undefined}
    assert not measured.onsets.any()
    assert not measured.pitch_classes.any()
    assert not measured.pitches.any()


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
    description = describe(NameFacts(), listen(measured, source, CONFIG), source.duration_s)
    json.dumps(description.features, allow_nan=False)  # raises for NaN and infinity
    assert (description.bpm, description.key) == (None, None)


class Ledger:
    """Stands before a `StandardisedAudio` and notes how many samples are asked for at once."""

    def __init__(self, audio: StandardisedAudio) -> None:
        self.audio = audio
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.audio, name)

    def samples(self, start: int = 0, stop: int | None = None) -> Float32:
        stop = self.audio.length if stop is None else stop
        self.asked.append(stop - start)
        return self.audio.samples(start, stop)


def test_analysis_never_asks_for_more_than_a_block(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_name(monkeypatch, "ANALYSIS_FRAMES", 64)
    with standardised(music(20), folder) as audio:
        ledger: Any = Ledger(audio)
        analyse(ledger)
    assert len(ledger.asked) > 20
    assert max(ledger.asked) <= max(64 * HOP + N_FFT, (PITCH_FRAMES + 1) * PITCH_HOP)


def test_of_a_long_file_a_bounded_part_is_analysed_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class TenMinutes:
        length = 600 * RATE_HZ
        peak = 0.5
        starts: ClassVar[list[int]] = []
        read = 0

        def samples(self, start: int, stop: int) -> Float32:
            self.starts.append(start)
            TenMinutes.read += stop - start
            assert stop - start <= (PITCH_FRAMES + 1) * PITCH_HOP
            return np.full(stop - start, 0.5, np.float32)

    replace_name(monkeypatch, "MAX_ANALYSIS_S", 30.0)
    replace_name(monkeypatch, "MAX_MUSIC_S", 4.0)
    measured = analyse(TenMinutes())  # type: ignore[arg-type]  # all that it uses
    assert measured.features["rms"] == pytest.approx(0.5, rel=0.01)  # a mean over the frames that were read, not of all
    assert TenMinutes.read <= (30 + 30 + 4 + 4) * 1.1 * RATE_HZ  # features, loudness, rhythm, harmony
    starts = sorted(TenMinutes.starts)
    assert np.diff(starts).max() < 25 * RATE_HZ
    assert starts[-1] > TenMinutes.length - 25 * RATE_HZ
    assert measured.duration_s == 600
    assert len(measured.onsets[0]) == 4 * RATE_HZ // HOP
    assert len(measured.pitches) == 1 + 4 * RATE_HZ // PITCH_HOP


def test_features_of_a_bounded_part_are_near_those_of_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = analysed(music(60), folder).features
    replace_name(monkeypatch, "MAX_ANALYSIS_S", 20.0)
    part = analysed(music(60), folder).features
    assert part != whole
    assert part == pytest.approx(whole, rel=0.1)


# -------------------------------------------------------------------------------------------------------------- levels


def loudness_in_parts(samples: npt.ArrayLike, *ends: int) -> float | None:
    """Return what `LoudnessMeter` says of `samples` that come in parts, the first up to ends[0]."""
    meter = LoudnessMeter()
    for part in np.split(np.asarray(samples, np.float32), sorted(ends)):
        meter.add(part)
    return meter.loudness_lufs()


def pyloudnorms(samples: npt.ArrayLike) -> float:
    return float(pyloudnorm.Meter(RATE_HZ).integrated_loudness(np.asarray(samples, np.float64)))


def fading_noise(length: int) -> Float32:
    """Return noise that fades, so that one block of 400 ms more or less is heard."""
    noise = np.random.default_rng(length).standard_normal(length) * np.exp(-np.arange(length) / 20_000)
    return np.asarray(0.1 * noise, np.float32)


@pytest.mark.parametrize("seconds", [0.4, 0.43, 0.449, 0.451, 0.75, 0.95, 1, 1.55, 5, 12.345])
def test_loudness_equals_pyloudnorms_whatever_the_length(folder: Path, seconds: float) -> None:
    samples = fading_noise(round(seconds * RATE_HZ))
    assert analysed(samples, folder).features["loudness_lufs"] == pytest.approx(pyloudnorms(samples), abs=0.01)


@settings(deadline=None, max_examples=60)
@given(length=st.integers(19_200, 120_000), ends=st.lists(st.integers(0, 120_000), max_size=6))
@pytest.mark.filterwarnings("ignore:Possible clipped samples")
def test_loudness_equals_pyloudnorms_wherever_the_parts_end(length: int, ends: list[int]) -> None:
    samples = fading_noise(length)
    assert loudness_in_parts(samples, *ends) == pytest.approx(pyloudnorms(samples), abs=0.01)


@settings(deadline=None, max_examples=60)
@given(half_steps=st.integers(0, 80))
def test_loudness_equals_pyloudnorms_where_half_a_step_is_left(half_steps: int) -> None:
    samples = fading_noise(19_200 + 2_400 * half_steps)
    assert loudness_in_parts(samples) == pytest.approx(pyloudnorms(samples), abs=0.01)


@pytest.mark.parametrize("frames", [64, 128])
def test_audio_that_ends_where_a_block_begins_is_measured(folder: Path, frames: int) -> None:
    """The last block has a frame of its own, whose middle is the end, and no sample."""
    samples = fading_noise(frames * HOP)
    assert frames % ANALYSIS_FRAMES == 0
    assert analysed(samples, folder).features["loudness_lufs"] == pytest.approx(pyloudnorms(samples), abs=0.01)


@pytest.mark.parametrize("quiet", [0.0, 1e-5, 0.01])
def test_loudness_leaves_out_the_pauses_as_pyloudnorm_does(folder: Path, quiet: float) -> None:
    """Gated are blocks under -70 LUFS, and then those 10 LU under the mean."""
    samples = 0.3 * music(9)
    samples[2 * RATE_HZ : 7 * RATE_HZ] *= np.float32(quiet)
    loudness = analysed(samples, folder).features["loudness_lufs"]
    assert loudness == pytest.approx(pyloudnorms(samples), abs=0.01)
    assert loudness == pytest.approx(pyloudnorms(0.3 * music(2)), abs=1.5)  # the mean of all would be 3 LU less


def test_a_mono_tone_of_minus_20_dbfs_has_minus_23_lufs(folder: Path) -> None:
    """A sine of 997 Hz at 0 dBFS in one channel is -3.01 LKFS (ITU-R BS.1770-4, annex 1), so that EBU Tech 3341's
    -23 dBFS in both of two channels, its test 1, is -23.0 LUFS within 0.1: two channels are 3.01 LU more than one."""
    mono = analysed(sine(997, 20, 10 ** (-20 / 20)), folder).features["loudness_lufs"]
    assert mono == pytest.approx(-20 - 3.01, abs=0.1)
    assert analysed(sine(997, 20, 10 ** (-23 / 20)), folder).features["loudness_lufs"] == pytest.approx(-26.0, abs=0.1)


def test_under_four_tenths_of_a_second_no_loudness_is_defined(folder: Path) -> None:
    assert analysed(sine(997)[:19_199], folder).features["loudness_lufs"] is None
    assert analysed(sine(997)[:19_200], folder).features["loudness_lufs"] is not None


@pytest.mark.parametrize("gain", [0.0, 1e-6, 10 ** (-67.5 / 20)])
def test_what_is_gated_wholly_has_no_loudness(folder: Path, gain: float) -> None:
    assert analysed(sine(997, 2, gain), folder).features["loudness_lufs"] is None


def test_peak_is_that_of_the_farthest_sample_to_either_side(folder: Path) -> None:
    peaks = {level: analysed([0, level, 0.1], folder).features["peak_dbfs"] for level in (0.5, -0.5, -1.0)}
    assert peaks == {0.5: pytest.approx(-6.0206, abs=1e-4), -0.5: peaks[0.5], -1.0: 0.0}


def test_levels_are_those_of_the_mono_mix(folder: Path) -> None:
    one_sided = np.stack([sine(997), np.zeros(RATE_HZ)], axis=1)
    _, measured = read(folder, encode(one_sided, RATE_HZ, "WAV", "PCM_24"))
    mix = analysed(sine(997, amplitude=0.25), folder)
    assert measured.features["peak_dbfs"] == pytest.approx(mix.features["peak_dbfs"], abs=0.001)
    assert measured.features["loudness_lufs"] == pytest.approx(mix.features["loudness_lufs"], abs=0.001)


# -------------------------------------------------------------------------------------------------------------- onsets


def test_mel_spectrum_equals_librosas() -> None:
    power = np.random.default_rng(0).random((7, BINS)).astype(np.float32)
    librosas = feature.melspectrogram(S=power.T, sr=RATE_HZ, n_fft=N_FFT)
    # The widest band is a sum of 64 products, in whatever order: as many roundings on either side.
    np.testing.assert_allclose(_mel_spectrum(power), librosas.T, rtol=2 * 64 * ROUNDING)


@pytest.mark.parametrize("frames", [3, 100])
def test_onsets_and_pitches_do_not_depend_on_the_blocks(
    folder: Path, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = analysed(clicks(100, 5) + music(5), folder)
    replace_name(monkeypatch, "ANALYSIS_FRAMES", frames)
    replace_name(monkeypatch, "PITCH_FRAMES", frames)
    parts = analysed(clicks(100, 5) + music(5), folder)
    # Another size of the block is another order of the 64 products in a band, and in that of the loudest, to which the
    # logarithm is scaled; an onset is the difference of two levels.
    np.testing.assert_allclose(parts.onsets, whole.onsets, atol=4 * 2 * 64 * ROUNDING / math.log(10))
    # The rest is computed frame by frame, and added up: 60 frames of positive numbers, an FFT of 13 stages.
    np.testing.assert_allclose(parts.pitches, whole.pitches, rtol=1e-4)
    np.testing.assert_allclose(parts.pitch_classes, whole.pitch_classes, rtol=1e-4)
    np.testing.assert_allclose(parts.spectrum, whole.spectrum, rtol=1e-4)


def test_onsets_rise_at_each_click_and_nowhere_else(folder: Path) -> None:
    onsets = analysed(clicks(120, 4), folder).onsets.sum(axis=0)
    rising = np.flatnonzero(onsets > 0.2 * onsets.max())
    beats = np.arange(1, 8) * 0.5 * RATE_HZ / HOP  # the first is at the very start, before which nothing was
    distances = np.abs(rising[:, np.newaxis] - beats).min(axis=1)
    assert distances.max() <= 4
    assert all(np.abs(rising - beat).min() <= 4 for beat in beats)


@pytest.mark.parametrize(("hz", "band"), [(70, 0), (800, 1), (9_000, 2)], ids=["kick", "snare", "hat"])
def test_a_hit_rises_most_in_its_own_band(folder: Path, hz: float, band: int) -> None:
    hit = np.zeros(2 * RATE_HZ)
    hit[RATE_HZ:] = sine(hz) * np.exp(-8 * SECOND_S) * np.minimum(SECOND_S / 0.02, 1)
    onsets = analysed(hit, folder).onsets
    assert onsets.max(axis=1).argmax() == band


def test_onsets_do_not_depend_on_the_gain(folder: Path) -> None:
    """Down to -40 dB; the rounding to 24 bits is then still far below what counts."""
    loop = clicks(100, 3)
    quiet = analysed(0.01 * loop, folder).onsets
    np.testing.assert_allclose(quiet, analysed(loop, folder).onsets, atol=0.01)


def test_a_steady_spectrum_has_no_onsets() -> None:
    assert not onset_strengths(np.full((50, 128), 0.3, np.float32)).any()


# --------------------------------------------------------------------------------------------------------------- pitch

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


# ----------------------------------------------------------------------------------------------------------------- key


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
    confidences = hear_keys(analysed(cadence(CADENCES[key], cents), folder).pitch_classes)
    assert KEY_NAMES[int(confidences.argmax())] == key
    assert confidences.max() > MIN_KEY_CONFIDENCE


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
    assert not hear_keys(np.zeros(PITCH_CLASS_STEPS)).any()
    assert hear_keys(np.ones(PITCH_CLASS_STEPS)).max() < 0.01


def test_pitch_classes_hold_the_notes_that_last_and_no_blip(folder: Path) -> None:
    held = analysed(sine(440, 2) + sine(440 * 2 ** (3 / 12), 2), folder).pitch_classes
    assert set(np.flatnonzero(held > 0.05 * held.max()) // 10) == {0, 3}
    blip = np.zeros(2 * RATE_HZ)
    start = 5 * PITCH_HOP - 240  # in the middle of one frame, and at the edges of those beside it
    blip[start : start + 480] = sine(440)[:480]
    assert analysed(blip, folder).pitch_classes.sum() < 0.01 * held.sum()


# ------------------------------------------------------------------------------------------------------------- quality


def read(folder: Path, content: bytes) -> tuple[SourceFormat, Measurements]:
    """Return what is read and measured of a file."""
    with StandardisedAudio(folder) as audio:
        source = standardise(io.BytesIO(content), audio, CONFIG.max_duration_s)
        return source, analyse(audio)


def issues(folder: Path, content: bytes, **settings: float) -> list[str]:
    source, measured = read(folder, content)
    return quality_issues(source, measured.features, dataclasses.replace(CONFIG, **settings))  # type: ignore[arg-type]


def wav(samples: npt.ArrayLike, subtype: str = "PCM_16") -> bytes:
    return encode(samples, RATE_HZ, "WAV", subtype)


def stereo(left: npt.ArrayLike, right: npt.ArrayLike) -> npt.NDArray[Any]:
    return np.stack([left, right], axis=1)


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
    features = read(folder, content)[1].features
    level, rms = features["loudness_lufs"], features["rms"]
    if level is None:
        assert rms is not None
        level = 20 * math.log10(rms)
    assert issues(folder, content, min_loudness_lufs=level) == []
    assert issues(folder, content, min_loudness_lufs=math.nextafter(level, 0)) == ["too_quiet"]


def test_a_sound_between_the_parts_that_are_analysed_is_not_silence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "MAX_ANALYSIS_S", 2.0)  # of 10 s: every fifth block
    late = np.zeros(10 * RATE_HZ)
    at = ANALYSIS_FRAMES * HOP * 3 // 2
    late[at : at + 1_000] = sine(997)[:1_000]
    assert issues(folder, wav(late)) == []


HARD_CLIPPED = np.clip(3 * sine(440), -1, 1)
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
    share = read(folder, content)[0].clipped_share
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
    assert issues(folder, wav(np.stack([sine(440), sine(330), nothing], axis=1))) == ["dead_channel"]


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


def test_files_of_poor_quality_stay_in_the_database_with_the_reasons(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_inline_workers(monkeypatch)
    poor = {
        "clipped.wav": wav(HARD_CLIPPED),
        "dc_offset.wav": wav(sine(440) + 0.25),
        "dead_channel.wav": wav(stereo(sine(440), np.zeros(RATE_HZ))),
        "silent.wav": wav(np.zeros(RATE_HZ)),
        "too_quiet.wav": wav(sine(440, amplitude=1e-4)),
        "too_short.wav": wav(sine(440)[13:200]),
        "truncated.wav": wav(sine(440))[:50_000],
    }
    for name, content in {"good.wav": wav(sine(440)), **poor}.items():
        (workplace.input / name).write_bytes(content)
    assert workplace.run(max_dc_offset=0.2).inserted == len(poor) + 1
    told = [(row["quality_ok"], json.loads(row["features"])["quality_issues"]) for row in workplace.rows()]
    assert dict(zip(workplace.originals(), told, strict=True)) == {
        "good.wav": (1, []),
        **{name: (0, [name.removesuffix(".wav")]) for name in poor},
    }
