"""Measure a sound: spectrum, loudness, onsets, pitches and pitch classes."""

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
# The number of frames per block: 0.7 s of audio, so that its spectrum (0.5 MB) stays in the processor's cache.
ANALYSIS_FRAMES = 64
LOUDNESS_BLOCK = SAMPLE_RATE_HZ * 400 // 1000  # 19,200
LOUDNESS_STEP = LOUDNESS_BLOCK // 4
# Of a longer file, only every n-th block is analysed: 5 s of work. All blocks of six hours would exceed the time limit.
MAX_ANALYSIS_S = 1_200.0
# Two minutes give as much information about rhythm and key as an hour.
MAX_MUSIC_S = 120.0

# For silence librosa gives 0 Hz.
UNDEFINED_IN_SILENCE = ("spectral_centroid", "spectral_rolloff", "spectral_bandwidth")

BINS = N_FFT // 2 + 1  # 1,025
# `_rolloff_hz` splits the bins into this many groups, of 41 bins each.
BIN_GROUPS = 25
BIN_HZ = SAMPLE_RATE_HZ / N_FFT  # 23.4
# Each row has 1, Hz and Hz² of a bin.
POWERS_OF_HZ = np.vander(BIN_HZ * np.arange(BINS), 3, increasing=True)
ROLLOFF_SHARE = 0.85
# Keeps the divisions and logarithms defined for silence.
NO_ENERGY = float(np.finfo(np.float32).tiny)

# The mel bands in which a kick (below 180 Hz), a snare or a chord (to 2.5 kHz), and a hat (above 5 kHz) rise.
ONSET_BANDS = (slice(0, 5), slice(5, 60), slice(80, 128))
# With this gain, a band that is 40 dB below the loudest moment still counts.
ONSET_COMPRESSION = 1e4

# 5.9 Hz per bin. With 2,048 points, semitones in the bass could not be distinguished.
PITCH_N_FFT = 8_192
PITCH_HOP = PITCH_N_FFT // 2
# The number of frames per block: 1.4 s.
PITCH_FRAMES = 16
# 30 s: no single note is longer.
PITCH_BLOCKS = 22
PITCH_BIN_HZ = SAMPLE_RATE_HZ / PITCH_N_FFT
PITCH_BINS = PITCH_N_FFT // 8 + 1  # up to 6 kHz: 1,025
PITCH_CLASS_BINS = slice(round(50 / PITCH_BIN_HZ), round(3_000 / PITCH_BIN_HZ))
# Above this, peaks count less the higher they are: most are harmonics, which are fifths and thirds of the notes that
# are played.
FULL_WEIGHT_HZ = 500.0
# Half a second, about one beat: 6 frames.
PITCH_CLASS_FRAMES = round(0.5 * SAMPLE_RATE_HZ / PITCH_HOP)
# Steps of 10 cents in an octave, from A upwards.
PITCH_CLASS_STEPS = 120
# The share of a frame's highest peak that a peak must reach. Relevant harmonics of a note are louder.
LEAST_PEAK = 0.06
# Twice the rate that a spectrum up to 6 kHz needs: with fewer lags per cycle, high peaks would be missed.
PITCH_LAG_HZ = 24_000
MAX_PITCH_LAG = PITCH_LAG_HZ // 20  # 1,200


def analyse(audio: StandardisedAudio) -> Measurements:
    """Measure everything that a file's description is based on, block by block.

    The features of a file longer than `MAX_ANALYSIS_S` are those of every second, third, … block over its whole length.
    Rhythm and harmony are measured in the first `MAX_MUSIC_S`.
    """
    frames = 1 + audio.length // HOP
    music_frames = int(MAX_MUSIC_S * SAMPLE_RATE_HZ / HOP)
    every = math.ceil(audio.length / SAMPLE_RATE_HZ / MAX_ANALYSIS_S)
    sums: Counter[str] = Counter()
    analysed = 0
    meter = LoudnessMeter()
    mels: list[Float32] = []
    for first in range(0, frames, ANALYSIS_FRAMES):
        is_sampled = first // ANALYSIS_FRAMES % every == 0
        if not is_sampled and first >= music_frames:
            continue
        end = min(first + ANALYSIS_FRAMES, frames)
        block = _with_zeros_around(audio, first * HOP - N_FFT // 2, (end - 1) * HOP + N_FFT // 2)
        power = _power_spectrum(block)
        if is_sampled:
            analysed += len(power)
            meter.add(audio.samples(first * HOP, min((first + ANALYSIS_FRAMES) * HOP, audio.length)))
            for name, values in _features(block, power).items():
                sums[name] += float(values.sum(dtype=np.float64))  # type: ignore[assignment]  # Counter of floats
        if first < music_frames:
            mels.append(_mel_spectrum(power))
    features: dict[str, float | None] = {name: total / analysed for name, total in sums.items()}
    if audio.peak == 0:
        features.update(dict.fromkeys(UNDEFINED_IN_SILENCE))
    features |= {"peak_dbfs": decibels(audio.peak), "loudness_lufs": meter.loudness_lufs()}
    onsets = onset_strengths(np.concatenate(mels)[:music_frames])
    return Measurements(audio.length / SAMPLE_RATE_HZ, features, onsets, *_measure_harmony(audio))


class LoudnessMeter:
    """Integrated loudness by ITU-R BS.1770-4 of audio that comes in blocks.

    Blocks of 400 ms, one every 100 ms, are gated at -70 LUFS and at 10 LU below their mean. The filters are those of
    pyloudnorm, which itself needs a whole file at once.
    """

    def __init__(self) -> None:
        import pyloudnorm  # type: ignore[import-untyped]  # ships no types

        # A private attribute, but the release is pinned.
        shelf, high_pass = pyloudnorm.Meter(SAMPLE_RATE_HZ)._filters.values()
        self.b, self.a = np.convolve(shelf.b, high_pass.b), np.convolve(shelf.a, high_pass.a)
        self.state = np.zeros(len(self.a) - 1)
        # The energy of each full 100 ms.
        self.energies: list[float] = []
        # The squares of the samples after the last full 100 ms.
        self.rest = np.zeros(0)
        self.length = 0

    def add(self, samples: Float32) -> None:
        """Add the next samples, shape (n,)."""
        import scipy.signal

        # lfilter refuses an empty array, which the last block is if the audio ends with a frame.
        if not len(samples):
            return
        weighted, self.state = scipy.signal.lfilter(self.b, self.a, samples.astype(np.float64), zi=self.state)
        self.length += len(samples)
        energy = np.concatenate([self.rest, weighted**2])
        whole = len(energy) // LOUDNESS_STEP * LOUDNESS_STEP
        self.energies += list(energy[:whole].reshape(-1, LOUDNESS_STEP).sum(axis=1))
        self.rest = energy[whole:]

    def loudness_lufs(self) -> float | None:
        """Return the loudness so far; None if it is undefined.

        It is undefined below 400 ms, and if all blocks are below the gate.
        """
        if self.length < LOUDNESS_BLOCK:
            return None
        # The same arithmetic as in pyloudnorm, whose rounding sometimes adds a block for half a step too many.
        count = round((self.length / SAMPLE_RATE_HZ - 0.4) / (0.4 * 0.25)) + 1
        energies = np.array([*self.energies, self.rest.sum()])
        steps = LOUDNESS_BLOCK // LOUDNESS_STEP
        power = sliding_window_view(np.pad(energies, (0, steps)), steps)[:count].sum(axis=1) / LOUDNESS_BLOCK
        power = power[power >= 10 ** ((-70 + 0.691) / 10)]
        power = power[power > power.mean() / 10] if len(power) else power
        return float(-0.691 + 10 * np.log10(power.mean())) if len(power) else None


def _with_zeros_around(audio: StandardisedAudio, start: int, stop: int) -> Float32:
    """Return samples [start, stop), with zeros beyond both ends of the audio."""
    inner = audio.samples(max(start, 0), min(stop, audio.length))
    return np.pad(inner, (max(-start, 0), max(stop - audio.length, 0)))


def _power_spectrum(block: Float32) -> Float32:
    """Return the power spectrum of each frame, shape (frames, BINS).

    The FFT is in float64, as in librosa: the noise of a float32 FFT widens the band of a pure bass by up to 1 %.
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
    """Return the sum over each frame, shape (frames,).

    Each sample is added only once, although it is in four frames.
    """
    return np.convolve(values.reshape(-1, HOP).sum(axis=1), np.ones(N_FFT // HOP), "valid")


def _rolloff_hz(magnitude: Float32) -> Float64:
    """Return the frequency below which `ROLLOFF_SHARE` of each frame's magnitude lies, shape (frames,).

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
    """Return librosa's 128 mel filters in eight groups.

    Each group has its bins and its weights (bins, bands). 98 % of the whole matrix is zero, and multiplying by it takes
    four times as long.
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
    """Return how much each of `ONSET_BANDS` rises from frame to frame, shape (3, frames).

    `mel` is the mel power spectrum (frames, bands). The result is the flux of log-compressed bands (Böck, Krebs and
    Schedl, ISMIR 2012).
    """
    # In silence the division would overflow.
    gain = np.float32(ONSET_COMPRESSION / max(float(mel.max()), 1e-30))
    # A player is never exact to the millisecond.
    blur = np.hanning(5) / 2
    strengths = []
    # One band after the other: together they need three times the memory.
    for bands in ONSET_BANDS:
        level = np.log10(1 + gain * mel[:, bands])
        rises = np.maximum(np.diff(level, axis=0, prepend=level[:1]), 0).mean(axis=1)
        strengths.append(np.convolve(rises, blur)[2:-2])
    return np.array(strengths, np.float32)


def _measure_harmony(audio: StandardisedAudio) -> tuple[Float64, Float64, Float64]:
    """Return `pitch_classes`, `pitches` and `spectrum` of `Measurements` for the first `MAX_MUSIC_S`."""
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
    """Return the magnitude spectrum up to 6 kHz of frames [first, end).

    Its shape is (frames, PITCH_BINS).
    """
    import scipy.fft

    block = _with_zeros_around(audio, (first - 1) * PITCH_HOP, end * PITCH_HOP)
    frames = sliding_window_view(block, PITCH_N_FFT)[::PITCH_HOP] * _hann(PITCH_N_FFT).astype(np.float32)
    return np.asarray(np.abs(scipy.fft.rfft(frames)[:, :PITCH_BINS]))


def _pitches(magnitude: Float32) -> Float64:
    """Return pitch, clarity and energy of each frame, shape (frames, 3).

    The pitch is in Hz (0: none). `magnitude` is a `_pitch_spectrum`. The pitch is the first peak of the normalised
    autocorrelation that is nearly as high as the highest (McLeod and Wyvill, "A smarter way to find pitch", ICMC 2005).
    Its height, up to 1, is the clarity.
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
    """Return the autocorrelation of the pitch window at each lag.

    The autocorrelation of every frame is divided by it.
    """
    power = np.abs(np.fft.rfft(_hann(PITCH_N_FFT), 2 * PITCH_N_FFT)) ** 2
    correlation = np.fft.irfft(power)[:: SAMPLE_RATE_HZ // PITCH_LAG_HZ][: MAX_PITCH_LAG + 1]
    return np.asarray(correlation / correlation[0])


def _parabola_offset(left: Float64, middle: Float64, right: Float64) -> Float64:
    """Return the peak of the parabola through three values.

    The result is -0.5 to 0.5. The middle value is the highest.
    """
    curvature = left - 2 * middle + right
    return np.asarray(np.clip(0.5 * (left - right) / np.where(curvature < 0, curvature, -np.inf), -0.5, 0.5))


def _pitch_classes(magnitude: Float32) -> Float64:
    """Return how much sounds in each 10 cents of the octave, shape (PITCH_CLASS_STEPS,).

    `magnitude` is a `_pitch_spectrum` up to the bin after `PITCH_CLASS_BINS`. Spectral peaks count if they last for two
    frames, which those of a drum do not. Each counts with the root of its magnitude, so that loud notes do not hide
    the others. Each half second counts the same, so that loud chords do not hide the quiet ones (as in Gómez, "Tonal
    description of polyphonic audio", 2006, where each frame is normalised).
    """
    around = np.pad(magnitude, ((1, 1), (0, 0)), mode="edge")
    lasting = np.minimum(magnitude, np.maximum(around[:-2], around[2:]) if len(magnitude) > 1 else 0)
    level = np.log(lasting + NO_ENERGY).astype(np.float64)
    bins = PITCH_CLASS_BINS
    left, middle, right = (level[:, bins.start + shift : bins.stop + shift] for shift in (-1, 0, 1))
    heights = np.where((middle > left) & (middle >= right), lasting[:, bins], 0)
    loud = heights > np.maximum(LEAST_PEAK * heights.max(axis=1, keepdims=True), LEAST_PEAK**2 * heights.max())
    frame, peak = np.nonzero(loud)
    offset = _parabola_offset(left[frame, peak], middle[frame, peak], right[frame, peak])
    hz = (bins.start + peak + offset) * PITCH_BIN_HZ
    steps = np.rint(PITCH_CLASS_STEPS * np.log2(hz / 440)).astype(int) % PITCH_CLASS_STEPS
    weights = np.sqrt(heights[frame, peak]) * np.minimum(FULL_WEIGHT_HZ / hz, 1)
    part = frame // PITCH_CLASS_FRAMES
    part_sums = np.bincount(part, weights)
    return np.bincount(steps, weights / part_sums[part], PITCH_CLASS_STEPS).astype(np.float64)


def decibels(amplitude: float | None) -> float | None:
    """Return an amplitude in dB relative to full scale; None for silence."""
    return 20 * math.log10(amplitude) if amplitude else None
