"""What is measured of a sound, beside librosa's and pyloudnorm's figures.

All tests that call librosa are here. Importing its analysis compiles for ten seconds, in each process that does it.
"""

from __future__ import annotations

import json
import math
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
from make_stems import STEMS, Stem, render
from patching import replace_name
from sounds import (
    FIVE,
    HARD_CLIPPED,
    RATE_HZ,
    SECOND_S,
    SPECTRAL,
    Float32,
    Float64,
    analysed,
    clicks,
    issues,
    read_sound,
    sine,
    standardised,
    stereo,
    wav,
)
from stem_dataset.audio.wav import KEPT_SAMPLES, StandardisedAudio
from stem_dataset.music.features import (
    ANALYSIS_FRAMES,
    BINS,
    PITCH_FRAMES,
    PITCH_HOP,
    ROLLOFF_SHARE,
    LoudnessMeter,
    _mel_spectrum,
    analyse,
    onset_strengths,
)
from vectors import ROUNDING
from workplace import Workplace

N_FFT, HOP = 2_048, 512


def music(seconds: float, seed: int = 0) -> Float32:
    """Return a tone that glides and swells over a little noise, so that no two blocks are alike."""
    seconds_in = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    hz = 200 + 150 * seconds_in
    swell = 0.4 + 0.3 * np.sin(2 * np.pi * 0.3 * seconds_in)
    dice = np.random.default_rng(seed)
    tone = swell * np.sin(2 * np.pi * hz * seconds_in) + 0.02 * dice.standard_normal(len(seconds_in))
    return np.asarray(tone, np.float32)


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
    _, measured = read_sound(folder, encode(one_sided, RATE_HZ, "WAV", "PCM_24"))
    mix = analysed(sine(997, amplitude=0.25), folder)
    assert measured.features["peak_dbfs"] == pytest.approx(mix.features["peak_dbfs"], abs=0.001)
    assert measured.features["loudness_lufs"] == pytest.approx(mix.features["loudness_lufs"], abs=0.001)


def test_mel_spectrum_equals_librosas() -> None:
    power = np.random.default_rng(0).random((7, BINS)).astype(np.float32)
    librosas = feature.melspectrogram(S=power.T, sr=RATE_HZ, n_fft=N_FFT)
    # The widest band is a sum of 64 products, in whatever order: as many roundings on either side.
    np.testing.assert_allclose(_mel_spectrum(power), librosas.T, rtol=2 * 64 * ROUNDING)


def test_the_key_of_a_made_stem_can_be_heard_by_librosa() -> None:
    """Krumhansl-Kessler: the profile that correlates best with the chroma names the key."""
    heard = {key: heard_key(stem_named(f"Chords/chord_soft_{key}.wav")) for key in ("C", "Am")}
    assert heard == {"C": "C", "Am": "Am"}


def test_the_tempo_of_a_made_stem_can_be_heard_by_librosa() -> None:
    """The tempo that `librosa.beat.beat_track` returns, without the beats, whose code would be compiled too."""
    stem = stem_named("Loops/120bpm/loop_01.wav")
    assert stem.bpm is not None
    tempo_bpm = float(feature.tempo(y=render(stem)[:, 0], sr=stem.form.sample_rate_hz)[0])
    assert min(abs(tempo_bpm / stem.bpm / octave - 1) for octave in (0.5, 1, 2)) < 0.04


def stem_named(file: str) -> Stem:
    return next(stem for stem in STEMS if stem.file == file)


def heard_key(stem: Stem) -> str:
    major = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
    minor = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
    chroma = feature.chroma_stft(y=render(stem)[:, 0], sr=stem.form.sample_rate_hz, n_fft=8192).mean(axis=1)
    notes = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    fits = {
        note + mode: np.corrcoef(np.roll(profile, semitones), chroma)[0, 1]
        for mode, profile in (("", major), ("m", minor))
        for semitones, note in enumerate(notes)
    }
    return max(fits, key=lambda key: float(fits[key]))


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


def test_pitch_classes_hold_the_notes_that_last_and_no_blip(folder: Path) -> None:
    notes = sine(440, 2) + sine(440 * 2 ** (3 / 12), 2)
    held = analysed(notes, folder).pitch_classes
    assert set(np.flatnonzero(held > 0.05 * held.max()) // 10) == {0, 3}
    start = 5 * PITCH_HOP - 240  # in the middle of one frame, and at the edges of those beside it
    notes[start : start + 480] += 4 * sine(330)[:480]
    with_blip = analysed(notes, folder).pitch_classes
    assert with_blip == pytest.approx(held, abs=0.01 * held.max())


def test_a_sound_between_the_parts_that_are_analysed_is_not_silence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "MAX_ANALYSIS_S", 2.0)  # of 10 s: every fifth block
    late = np.zeros(10 * RATE_HZ)
    at = ANALYSIS_FRAMES * HOP * 3 // 2
    late[at : at + 1_000] = sine(997)[:1_000]
    assert issues(folder, wav(late)) == []


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
