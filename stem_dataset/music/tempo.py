"""Estimate a sound's tempo, and whether it is a loop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from stem_dataset.datatypes import SAMPLE_RATE_HZ, Float32, Float64, NameFacts, Rhythm, Tempo
from stem_dataset.music.features import HOP, NO_ENERGY
from stem_dataset.music.name_tempo import LEAST_LONE_BPM
from stem_dataset.music.tempo_weights import (
    ALL,
    DISTANCE_WEIGHT,
    DIVISION_WEIGHTS,
    HIGH,
    LAGS_BEATS,
    LOW,
    MIDDLE,
    PAIRS,
    RATES_A_BEAT,
    REGULARITY_WEIGHT,
)

# Each tempo is half a percent above the one before.
TEMPI_BPM = np.geomspace(55, 220, 289)
MIN_RHYTHM_S = 1.0
# A shorter file is no loop, whatever its folder says.
MIN_LOOP_S = 0.5
# The least regularity of a steady pulse: the first of these, plus the second divided by the root of the duration. In a
# longer file, chance produces less regularity.
MIN_REGULARITY = 0.1
MIN_REGULARITY_1_S = 0.4
# The same for a file whose name calls it a loop.
MIN_LOOP_REGULARITY = 0.2
# A tempo in a name and one in the audio are the same within this share.
SAME_TEMPO = 0.03
# The audio gives a tempo to half a percent; a length in whole bars within this share of it gives the exact tempo.
SNAP_TEMPO = 0.012
# Loops are cut to these numbers of bars.
BARS = (1, 2, 4, 8, 16, 32)
BAR_TOLERANCE = 0.004  # of the length
# Added to the logarithm of the likelihood: 7 to 1.
WHOLE_BARS_BONUS = 2.0
WHOLE_NUMBER_BONUS = 2.0
# In BPM: ten times the error that cutting a loop of 2 s to a sample makes at 200 BPM.
WHOLE_NUMBER_TOLERANCE = 0.02
# In a longer file, some number of bars fits any tempo; it is a song.
LONGEST_LOOP_S = 60.0
LONGEST_ONE_SHOT_S = 10.0


def estimate_rhythm(name: NameFacts, tempi: list[Tempo], duration_s: float) -> Rhythm:
    """Return the possible tempi, best first, and whether it is a loop.

    A file is a loop if its names say so, if its length is a whole number of bars at the tempo in its name, or if it has
    a steady pulse.
    """
    least = MIN_LOOP_REGULARITY if name.is_loop else least_regularity(duration_s)
    if not _has_pulse(tempi, least):
        tempi = []
    return Rhythm(duration_s, tempi, _is_loop(name, bool(tempi), duration_s))


def _has_pulse(tempi: Sequence[Tempo], least: float) -> bool:
    """Whether the best tempo is a steady pulse: it, its half or its double has the least regularity.

    A beat may be weak where every second one is strong, as in slow chords. But half the regularity must be its own:
    a pad that swells twice has one at half its tempo.
    """
    if not tempi or tempi[0].regularity < least / 2:
        return False
    octaves = [octave * tempi[0].bpm for octave in (0.5, 1, 2)]
    return any(tempo.regularity >= least and any(_is_near(tempo.bpm, bpm) for bpm in octaves) for tempo in tempi)


def least_regularity(duration_s: float) -> float:
    """Return the least regularity of a steady pulse in a file of this length."""
    return MIN_REGULARITY + MIN_REGULARITY_1_S / math.sqrt(duration_s)


def _is_loop(name: NameFacts, has_pulse: bool, duration_s: float) -> bool | None:
    if name.is_loop is not None and (duration_s >= MIN_LOOP_S or not name.is_loop):
        return name.is_loop
    if name.stated_bpm is not None and is_whole_bars(name.stated_bpm, duration_s):
        return True
    if has_pulse:
        return True if duration_s <= LONGEST_LOOP_S else None
    return False if duration_s <= LONGEST_ONE_SHOT_S else None


def tempo_candidates(onsets: Float32, center_bpm: float) -> list[Tempo]:
    """Return the local maxima of likelihood over `TEMPI_BPM`, best first.

    Each tempo is scored twice, with beats of two and of three parts, and has the better score. (Klapuri, Eronen and
    Astola, "Analysis of the meter of acoustic musical signals", 2006, also decide the beat and its parts together.)
    """
    cues, regularity = tempo_cues(onsets)
    divisions = [np.concatenate(DIVISION_WEIGHTS[name]) @ cues[name] for name in cues]
    # The log-normal prior of Ellis, "Beat tracking by dynamic programming", 2007.
    scores = np.max(divisions, axis=0) + DISTANCE_WEIGHT * np.log2(TEMPI_BPM / center_bpm) ** 2
    scores += REGULARITY_WEIGHT * regularity
    around = sliding_window_view(np.pad(scores, 6, constant_values=-np.inf), 13).max(axis=1)
    tempi = [
        Tempo(float(TEMPI_BPM[i]), float(regularity[i]), float(scores[i])) for i in np.flatnonzero(scores == around)
    ]
    return sorted(tempi, key=lambda tempo: -tempo.score)


def tempo_cues(onsets: Float32) -> tuple[dict[str, Float64], Float64]:
    """Return for each division of the beat its cues, shape (cues, tempi), and the regularity at each tempo.

    The order of the cues is that of `DIVISION_WEIGHTS`: the correlation of each of `PAIRS` at each of `LAGS_BEATS`, the
    spectrum of each band at each of `RATES_A_BEAT`, and for each band the squared distance, in octaves, between one
    event per beat and its rate of events. Autocorrelation and spectrum have opposite errors: half a tempo and a third
    of it look right to the first, its multiples to the second (Peeters, "Time variable tempo detection and beat
    marking", ICMC 2005). For the regularity see `Tempo`.
    """
    bands = [_without_trend(strength) for strength in (*onsets, onsets.sum(axis=0))]
    frames = onsets.shape[1]
    beat = 60 * SAMPLE_RATE_HZ / HOP / TEMPI_BPM
    correlations = np.array([_correlation(bands[one], bands[other]) for one, other in PAIRS])
    spectra = np.array([_spectrum(bands[band]) for band in (LOW, MIDDLE, HIGH)])
    events = [_count_events(onsets[band]) / frames for band in (LOW, MIDDLE, HIGH)]
    distances = [np.log2(a_frame * beat) ** 2 if a_frame else np.zeros(len(beat)) for a_frame in events]

    def after(beats: Sequence[float], correlations: Float64) -> Float64:
        # At longer lags too few beats are left to compare.
        lags = np.outer(beats, beat)
        return np.where(lags <= 0.8 * frames, _interpolated(correlations, lags), np.nan)

    def at(a_beat: Sequence[float]) -> Float64:
        # The last bin is half a cycle per frame.
        return _interpolated(spectra, np.asarray(a_beat)[:, np.newaxis] * (2 * (spectra.shape[1] - 1) / beat))

    cues = {
        division: np.concatenate(
            [
                np.nan_to_num(after(LAGS_BEATS[division], correlations)).reshape(-1, len(beat)),
                at(RATES_A_BEAT[division]).reshape(-1, len(beat)),
                distances,
            ]
        )
        for division in DIVISION_WEIGHTS
    }
    everything = correlations[[PAIRS.index((ALL, ALL))]]
    return cues, _mean_of_known(after((1, 2, 4), everything)[0])


def _interpolated(curves: Float64, places: Float64) -> Float64:
    """Return the values of curves, (c, n), at fractional indexes, (r, t), in the shape (c, r, t).

    It is linear. Places beyond the last index have its value. `np.interp` would take one curve and one row at a time.
    """
    places = np.minimum(places, curves.shape[1] - 1)
    below = np.minimum(places.astype(np.intp), curves.shape[1] - 2)
    return np.asarray(curves[:, below] + (places - below) * (curves[:, below + 1] - curves[:, below]))


def _spectrum(strength: Float64) -> Float64:
    """Return how strongly a band pulsates at each rate from 0 to half a cycle per frame.

    It does not depend on the level, and little on the length. There are eight times as many bins as the length needs.
    """
    import scipy.fft

    windowed = strength * np.hanning(len(strength))
    scale = math.sqrt(max(float(windowed @ windowed) * len(strength), NO_ENERGY))
    magnitude = np.abs(scipy.fft.rfft(windowed, 2 * scipy.fft.next_fast_len(4 * len(strength), real=True)))
    return np.asarray(magnitude / scale)


def _without_trend(strength: Float32) -> Float64:
    """Return `strength`, shape (n,), minus its mean over one second.

    A slow rise is not a rhythm.
    """
    around = np.ones(min(SAMPLE_RATE_HZ // HOP, len(strength)))
    mean = np.convolve(strength, around, "same") / np.convolve(np.ones(len(strength)), around, "same")
    return np.asarray(strength - mean)


def _correlation(one: Float64, other: Float64) -> Float64:
    """Return the similarity of two bands after each lag, shape (n,).

    It is the mean of both orders. Equal bands have 1 at lag 0.
    """
    import scipy.fft

    length = len(one)
    spectrum = scipy.fft.rfft(one, 2 * length).conj() * scipy.fft.rfft(other, 2 * length)
    # The real part is the mean of both orders.
    products = scipy.fft.irfft(spectrum.real)[:length]
    energy = math.sqrt((one @ one) * (other @ other))
    return np.asarray(products / max(energy, NO_ENERGY) * length / (length - np.arange(length)))


def _count_events(strength: Float32) -> int:
    """Return the number of peaks that reach a fifth of the highest."""
    middle = strength[1:-1]
    peaks = (middle > strength[:-2]) & (middle >= strength[2:]) & (middle > 0.2 * np.percentile(strength, 99.5))
    return int(np.count_nonzero(peaks))


def _mean_of_known(values: Float64) -> Float64:
    """Return the mean, (n,), of the rows of values, (r, n), that are not NaN; 0 if all are."""
    known = np.isfinite(values).sum(axis=0)
    return np.asarray(np.nan_to_num(values).sum(axis=0) / np.maximum(known, 1))


def decide_tempo(name: NameFacts, rhythm: Rhythm) -> tuple[float | None, str | None]:
    """Return the tempo in BPM, and its source (name, bars or audio).

    It is None for a one-shot, and for audio without a steady pulse whose name states no tempo.

    The first of these that exists is taken: a tempo that the name states with its unit; a number in the name that the
    audio or a length in whole bars confirms; a tempo at which the length is a number of whole bars, near one that the
    audio may have; the most likely tempo of the audio.
    """
    if rhythm.is_loop is False:
        return None, None
    if name.stated_bpm is not None:
        return name.stated_bpm, "name"
    for number in name.numbers:
        if _is_confirmed(number, rhythm):
            return number, "name"
    whole_bars = _tempo_in_whole_bars(rhythm)
    if whole_bars is not None:
        return round(whole_bars, 3), "bars"
    return (round(rhythm.tempi[0].bpm, 1), "audio") if rhythm.tempi else (None, None)


def regularity_at(bpm: float | None, rhythm: Rhythm) -> float | None:
    """Return the regularity of the audio's pulse at `bpm`, 0 to 1.

    It is None if the audio has no pulse there.
    """
    return next((tempo.regularity for tempo in rhythm.tempi if bpm and _is_near(bpm, tempo.bpm)), None)


def _is_confirmed(bpm: float, rhythm: Rhythm) -> bool:
    # Nobody writes half the tempo as 34: a small number counts files.
    octaves = (0.5, 1, 2) if bpm >= LEAST_LONE_BPM else (1,)
    in_audio = [octave * tempo.bpm for tempo in rhythm.tempi[:1] for octave in octaves]
    return any(_is_near(bpm, tempo) for tempo in in_audio) or is_whole_bars(bpm, rhythm.duration_s)


def is_whole_bars(bpm: float, duration_s: float) -> bool:
    """Whether a loop of this length is 1, 2, 4, … bars of 4/4 at `bpm`."""
    bars = duration_s * bpm / 240
    return duration_s <= LONGEST_LOOP_S and any(abs(bars / whole - 1) <= BAR_TOLERANCE for whole in BARS)


def _is_near(bpm: float, other_bpm: float, tolerance: float = SAME_TEMPO) -> bool:
    return abs(bpm / other_bpm - 1) <= tolerance


def _tempo_in_whole_bars(rhythm: Rhythm) -> float | None:
    """Return the most likely tempo with whole bars; None if there is none.

    The length of the file is then 1, 2, 4, … bars of 4/4. Whole numbers of beats per minute are preferred: a producer
    sets 173, not 86.5.
    """
    if rhythm.duration_s > LONGEST_LOOP_S:
        return None
    likely = []
    for bpm in (240 * bars / rhythm.duration_s for bars in BARS):
        is_whole_number = abs(bpm - round(bpm)) <= WHOLE_NUMBER_TOLERANCE
        bonus = WHOLE_BARS_BONUS + is_whole_number * WHOLE_NUMBER_BONUS
        likely += [(tempo.score + bonus, bpm) for tempo in rhythm.tempi if _is_near(bpm, tempo.bpm, SNAP_TEMPO)]
    score, whole_bars = max(likely, default=(-math.inf, None))
    return whole_bars if rhythm.tempi and score >= rhythm.tempi[0].score else None
