"""Measure a sound: spectrum, loudness, onsets and pitch classes."""

from __future__ import annotations

import functools
import math
from collections import Counter

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.datatypes import SAMPLE_RATE_HZ, Float32, Float64, Measurements

N_FFT = 2_048
HOP = 512
ANALYSIS_FRAMES = 64  # frames a block of the analysis: 0.7 s of audio, whose spectrum (0.5 MB) stays in the cache
LOUDNESS_BLOCK = SAMPLE_RATE_HZ * 400 // 1000  # 19,200
LOUDNESS_STEP = LOUDNESS_BLOCK // 4
MAX_ANALYSIS_S = 1_200.0  # of a longer file every n-th block is analysed: 5 s of work, or six hours would time out
MAX_MUSIC_S = 120.0  # two minutes tell as much of rhythm and key as an hour

# Not defined where nothing sounds; librosa gives 0 Hz there.
PITCHLESS_IN_SILENCE = ("spectral_centroid", "spectral_rolloff", "spectral_bandwidth")

BINS = N_FFT // 2 + 1  # 1,025 = 25 groups of 41, which `_rolloff_hz` makes use of
BIN_GROUPS = 25
BIN_HZ = SAMPLE_RATE_HZ / N_FFT  # 23.4
POWERS_OF_HZ = np.vander(BIN_HZ * np.arange(BINS), 3, increasing=True)  # 1, Hz and Hz² of each bin
ROLLOFF_SHARE = 0.85
NO_ENERGY = float(np.finfo(np.float32).tiny)  # keeps a silent frame from a division by zero

# The mel bands whose rises tell a kick (under 180 Hz), a snare or a chord (to 2.5 kHz), and a hat (over 5 kHz).
ONSET_BANDS = (slice(0, 5), slice(5, 60), slice(80, 128))
ONSET_COMPRESSION = 1e4  # a band 40 dB under the loudest moment still counts

PITCH_N_FFT = 8_192  # 5.9 Hz a bin: 2,048 points do not tell semitones apart in the bass
PITCH_HOP = PITCH_N_FFT // 2
PITCH_FRAMES = 16  # a block: 1.4 s
PITCH_BLOCKS = 22  # 30 s: no single note is longer
PITCH_BIN_HZ = SAMPLE_RATE_HZ / PITCH_N_FFT
PITCH_BINS = PITCH_N_FFT // 8 + 1  # up to 6 kHz: 1,025
PITCH_CLASS_BINS = slice(round(50 / PITCH_BIN_HZ), round(2_000 / PITCH_BIN_HZ))  # where the notes of music are
PITCH_CLASS_STEPS = 120  # of 10 cents in an octave, from A on
LEAST_PEAK = 0.03  # of the frame's highest; the harmonics of a note that say something are louder
PITCH_LAG_HZ = 24_000  # two lags a cycle more than the 6 kHz of the spectrum need: between fewer, high peaks are missed
MAX_PITCH_LAG = PITCH_LAG_HZ // 20  # 1,200


def analyse(audio: StandardisedAudio) -> Measurements:
    """Measure what a file's description is judged by, each in one pass.

    Over `MAX_ANALYSIS_S` the features are those of every second, third, … block, over the whole length; rhythm and
    harmony are heard in the first `MAX_MUSIC_S`.
    """
    frames = 1 + audio.length // HOP
    music_frames = int(MAX_MUSIC_S * SAMPLE_RATE_HZ / HOP)
    every = math.ceil(audio.length / SAMPLE_RATE_HZ / MAX_ANALYSIS_S)
    sums: Counter[str] = Counter()
    analysed = 0
    meter = LoudnessMeter()
    mels: list[Float32] = []
    for first in range(0, frames, ANALYSIS_FRAMES):
        counts = first // ANALYSIS_FRAMES % every == 0
        if not counts and first >= music_frames:
            continue
        end = min(first + ANALYSIS_FRAMES, frames)
        block = _with_zeros_around(audio, first * HOP - N_FFT // 2, (end - 1) * HOP + N_FFT // 2)
        power = _power_spectrum(block)
        if counts:
            analysed += len(power)
            meter.add(audio.samples(first * HOP, min((first + ANALYSIS_FRAMES) * HOP, audio.length)))
            for name, values in _features(block, power).items():
                sums[name] += float(values.sum(dtype=np.float64))  # type: ignore[assignment]  # Counter of floats
        if first < music_frames:
            mels.append(_mel_spectrum(power))
    features: dict[str, float | None] = {name: total / analysed for name, total in sums.items()}
    if audio.peak == 0:
        features.update(dict.fromkeys(PITCHLESS_IN_SILENCE))
    features |= {"peak_dbfs": decibels(audio.peak), "loudness_lufs": meter.loudness_lufs()}
    onsets = onset_strengths(np.concatenate(mels)[:music_frames])
    return Measurements(audio.length / SAMPLE_RATE_HZ, features, onsets, *_measure_harmony(audio))


class LoudnessMeter:
    """Integrated loudness by ITU-R BS.1770-4 of audio that comes in blocks: 400 ms from 100 ms to 100 ms, gated at
    -70 LUFS and at 10 LU under the mean. The filters are pyloudnorm's, which itself takes a whole file at once."""

    def __init__(self) -> None:
        import pyloudnorm  # type: ignore[import-untyped]  # ships no types

        shelf, high_pass = pyloudnorm.Meter(SAMPLE_RATE_HZ)._filters.values()  # private, but the release is pinned
        self.b, self.a = np.convolve(shelf.b, high_pass.b), np.convolve(shelf.a, high_pass.a)
        self.state = np.zeros(len(self.a) - 1)
        self.energies: list[float] = []  # of each 100 ms
        self.rest = np.zeros(0)
        self.length = 0

    def add(self, samples: Float32) -> None:
        """Take in the next samples, shape (n,)."""
        import scipy.signal

        if not len(samples):  # of the last block, where the audio ends with a frame; lfilter refuses them
            return
        weighted, self.state = scipy.signal.lfilter(self.b, self.a, samples.astype(np.float64), zi=self.state)
        self.length += len(samples)
        energy = np.concatenate([self.rest, weighted**2])
        whole = len(energy) // LOUDNESS_STEP * LOUDNESS_STEP
        self.energies += list(energy[:whole].reshape(-1, LOUDNESS_STEP).sum(axis=1))
        self.rest = energy[whole:]

    def loudness_lufs(self) -> float | None:
        """Return the loudness of what was added; None where it is undefined: under 400 ms, and where all is gated."""
        if self.length < LOUDNESS_BLOCK:
            return None
        # pyloudnorm's very arithmetic, by which half a step too many is now one block more and now none.
        count = round((self.length / SAMPLE_RATE_HZ - 0.4) / (0.4 * 0.25)) + 1
        energies = np.array([*self.energies, self.rest.sum()])
        steps = LOUDNESS_BLOCK // LOUDNESS_STEP
        power = sliding_window_view(np.pad(energies, (0, steps)), steps)[:count].sum(axis=1) / LOUDNESS_BLOCK
        power = power[power >= 10 ** ((-70 + 0.691) / 10)]
        power = power[power > power.mean() / 10] if len(power) else power
        return float(-0.691 + 10 * np.log10(power.mean())) if len(power) else None


def _with_zeros_around(audio: StandardisedAudio, start: int, stop: int) -> Float32:
    """Return samples [start, stop), beyond both ends of the audio zeros."""
    inner = audio.samples(max(start, 0), min(stop, audio.length))
    return np.pad(inner, (max(-start, 0), max(stop - audio.length, 0)))


def _power_spectrum(block: Float32) -> Float32:
    """Return the power spectrum of each frame, shape (frames, BINS).

    The FFT is in float64, as librosa's: the noise of one in float32 widens the band of a pure bass by up to 1 %.
    """
    import scipy.fft

    frames = sliding_window_view(block, N_FFT)[::HOP]
    spectrum = scipy.fft.rfft(frames * _hann(N_FFT)).astype(np.complex64)
    return np.asarray(spectrum.real**2 + spectrum.imag**2)


@functools.cache
def _hann(length: int) -> Float64:
    """Return the periodic Hann window."""
    return np.hanning(length + 1)[:-1]


def _features(block: Float32, power: Float32) -> dict[str, Float64]:
    """Return each feature of each frame, shape (frames,)."""
    magnitude = np.sqrt(power)
    # In float64: the band of a pure tone is the small difference of two large numbers.
    total, of_hz, of_hz2 = (magnitude @ POWERS_OF_HZ).T
    total = np.maximum(total, NO_ENERGY)
    centroid = of_hz / total
    crossings = np.diff(block < 0, prepend=block[0] < 0).astype(np.float32)
    return {
        "spectral_centroid": centroid,
        "zero_crossing_rate": (_sums_over_frames(crossings) - crossings[: 1 - N_FFT : HOP]) / N_FFT,
        "rms": np.sqrt(_sums_over_frames(np.square(block)) / N_FFT),
        "spectral_rolloff": _rolloff_hz(magnitude),
        "spectral_bandwidth": np.sqrt(np.maximum(of_hz2 / total - centroid**2, 0)),
    }


def _sums_over_frames(values: Float32) -> Float64:
    """Return the sum over each frame, shape (frames,): each sample is added once, though it is in four frames."""
    return np.convolve(values.reshape(-1, HOP).sum(axis=1), np.ones(N_FFT // HOP), "valid")


def _rolloff_hz(magnitude: Float32) -> Float64:
    """Return up to which frequency `ROLLOFF_SHARE` of each frame's magnitude lies, shape (frames,).

    First the group of bins is found, then the bin within: `np.cumsum` over all bins takes as long as the whole STFT.
    """
    groups = magnitude.reshape(len(magnitude), BIN_GROUPS, -1)
    up_to_group = np.cumsum(np.einsum("fgb->fg", groups), axis=1)
    wanted = ROLLOFF_SHARE * up_to_group[:, -1:]
    group = (up_to_group < wanted).sum(axis=1, keepdims=True)
    before = np.take_along_axis(np.pad(up_to_group, ((0, 0), (1, 0))), group, axis=1)
    within = np.take_along_axis(groups, group[:, :, np.newaxis], axis=1)[:, 0]
    bins = group[:, 0] * groups.shape[2] + (before + np.cumsum(within, axis=1) < wanted).sum(axis=1)
    return np.asarray(BIN_HZ * bins)


@functools.cache
def _mel_filters() -> list[tuple[slice, Float32]]:
    """Return librosa's 128 mel filters in eight groups: the bins that a group reaches, and its weights (bins, bands).

    The whole matrix is zero but for 2 %, and four times as slow.
    """
    from librosa.filters import mel

    filters = []
    for group in np.split(mel(sr=SAMPLE_RATE_HZ, n_fft=N_FFT), 8):
        reached = np.flatnonzero(group.any(axis=0))
        bins = slice(reached[0], reached[-1] + 1)
        filters.append((bins, group[:, bins].T))
    return filters


def _mel_spectrum(power: Float32) -> Float32:
    """Return the mel power spectrum of each frame, shape (frames, bands)."""
    return np.concatenate([power[:, bins] @ weights for bins, weights in _mel_filters()], axis=1)


def onset_strengths(mel: Float32) -> Float32:
    """Return how much the three `ONSET_BANDS` rise from frame to frame, shape (3, frames), from the mel power spectrum
    (frames, bands): the flux of log-compressed bands (Böck, Krebs and Schedl, ISMIR 2012)."""
    gain = np.float32(ONSET_COMPRESSION / max(float(mel.max()), 1e-30))  # of silence, which would overflow it
    blur = np.hanning(5) / 2  # a player's few milliseconds of freedom
    strengths = []
    for bands in ONSET_BANDS:  # one after the other, to need a third of the memory
        level = np.log10(1 + gain * mel[:, bands])
        rises = np.maximum(np.diff(level, axis=0, prepend=level[:1]), 0).mean(axis=1)
        strengths.append(np.convolve(rises, blur)[2:-2])
    return np.array(strengths, np.float32)


def _measure_harmony(audio: StandardisedAudio) -> tuple[Float64, Float64, Float64]:
    """Return `pitch_classes`, `pitches` and `spectrum` of `Measurements`, of the first `MAX_MUSIC_S`."""
    length = min(audio.length, int(MAX_MUSIC_S * SAMPLE_RATE_HZ))
    frames = 1 + length // PITCH_HOP
    magnitudes = [
        _pitch_spectrum(audio, first, min(first + PITCH_FRAMES, frames)) for first in range(0, frames, PITCH_FRAMES)
    ]
    pitches = np.concatenate([_pitches(magnitude) for magnitude in magnitudes[:PITCH_BLOCKS]])
    spectrum = np.sum([np.einsum("fb,fb->b", magnitude, magnitude) for magnitude in magnitudes], axis=0)
    notes = np.concatenate([magnitude[:, : PITCH_CLASS_BINS.stop + 1] for magnitude in magnitudes])
    return _pitch_classes(notes), pitches, np.asarray(spectrum, np.float64)


def _pitch_spectrum(audio: StandardisedAudio, first: int, end: int) -> Float32:
    """Return the magnitude spectrum up to 6 kHz of frames [first, end), shape (frames, PITCH_BINS)."""
    import scipy.fft

    block = _with_zeros_around(audio, (first - 1) * PITCH_HOP, end * PITCH_HOP)
    frames = sliding_window_view(block, PITCH_N_FFT)[::PITCH_HOP] * _hann(PITCH_N_FFT).astype(np.float32)
    return np.asarray(np.abs(scipy.fft.rfft(frames)[:, :PITCH_BINS]))


def _pitches(magnitude: Float32) -> Float64:
    """Return the pitch in Hz (0: none), its clarity and the frame's energy, shape (frames, 3), from `_pitch_spectrum`.

    The first peak of the normalised autocorrelation that is nearly as high as its highest (McLeod and Wyvill, "A
    smarter way to find pitch", ICMC 2005), whose height, up to 1, is the clarity.
    """
    import scipy.fft

    energy = np.einsum("fb,fb->f", magnitude, magnitude, dtype=np.float64)
    correlation = scipy.fft.irfft(np.square(magnitude, dtype=np.float64), PITCH_LAG_HZ * PITCH_N_FFT // SAMPLE_RATE_HZ)
    correlation = correlation[:, : MAX_PITCH_LAG + 1] / np.maximum(correlation[:, :1], NO_ENERGY)
    correlation /= _window_correlation()
    left, middle, right = correlation[:, :-2], correlation[:, 1:-1], correlation[:, 2:]
    behind_first_zero = np.logical_or.accumulate(middle < 0, axis=1)
    heights = np.where((middle > left) & (middle >= right) & behind_first_zero, middle, 0)
    lag = (heights >= 0.93 * np.maximum(heights.max(axis=1, keepdims=True), NO_ENERGY)).argmax(axis=1)
    each = np.arange(len(lag))
    a, b, c = left[each, lag], middle[each, lag], right[each, lag]
    clarity = heights[each, lag]
    exact_lag = lag + 1 + _parabola_offset(a, b, c)
    hz = np.where(clarity > 0, PITCH_LAG_HZ / exact_lag, 0)
    return np.stack([hz, clarity, energy], axis=1)


@functools.cache
def _window_correlation() -> Float64:
    """Return the autocorrelation of the pitch window at each lag: what every frame's is weighed down by."""
    power = np.abs(np.fft.rfft(_hann(PITCH_N_FFT), 2 * PITCH_N_FFT)) ** 2
    correlation = np.fft.irfft(power)[:: SAMPLE_RATE_HZ // PITCH_LAG_HZ][: MAX_PITCH_LAG + 1]
    return np.asarray(correlation / correlation[0])


def _parabola_offset(left: Float64, middle: Float64, right: Float64) -> Float64:
    """Return where between -0.5 and 0.5 the parabola through three values, of which the middle is highest, peaks."""
    curvature = left - 2 * middle + right
    return np.asarray(np.clip(0.5 * (left - right) / np.where(curvature < 0, curvature, -np.inf), -0.5, 0.5))


def _pitch_classes(magnitude: Float32) -> Float64:
    """Return how much sounds in each 10 cents of the octave, shape (PITCH_CLASS_STEPS,), from `_pitch_spectrum` up to
    the bin after `PITCH_CLASS_BINS`.

    Counted are spectral peaks that last for two frames (a drum's do not), each by the root of its magnitude, so that
    loud notes do not drown the others (Gómez, "Tonal description of polyphonic audio", 2006, without its harmonics).
    """
    around = np.pad(magnitude, ((1, 1), (0, 0)), mode="edge")
    lasting = np.minimum(magnitude, np.maximum(around[:-2], around[2:]) if len(magnitude) > 1 else 0)
    level = np.log(lasting + NO_ENERGY).astype(np.float64)
    bins = PITCH_CLASS_BINS
    left, middle, right = (level[:, bins.start + shift : bins.stop + shift] for shift in (-1, 0, 1))
    heights = lasting[:, bins]
    loud = heights > np.maximum(LEAST_PEAK * heights.max(axis=1, keepdims=True), LEAST_PEAK**2 * heights.max())
    frame, peak = np.nonzero((middle > left) & (middle >= right) & loud)
    offset = _parabola_offset(left[frame, peak], middle[frame, peak], right[frame, peak])
    hz = (bins.start + peak + offset) * PITCH_BIN_HZ
    steps = np.rint(PITCH_CLASS_STEPS * np.log2(hz / 440)).astype(int) % PITCH_CLASS_STEPS
    return np.bincount(steps, np.sqrt(heights[frame, peak]), PITCH_CLASS_STEPS).astype(np.float64)


def decibels(amplitude: float | None) -> float | None:
    """Return an amplitude in dB to full scale; None for silence."""
    return 20 * math.log10(amplitude) if amplitude else None
