"""The tempo of a sound, and whether it is a loop or a one-shot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from stem_dataset.datatypes import SAMPLE_RATE_HZ, Float32, Float64, NameFacts, Rhythm, Tempo
from stem_dataset.music.features import HOP, NO_ENERGY

# -- tempo ------------------------------------------------------------------------------------------------------------

TEMPI_BPM = np.geomspace(55, 220, 289)  # half a percent from one to the next
MIN_RHYTHM_S = 1.0
MIN_LOOP_S = 0.5  # what is shorter is no loop, whatever its folder says
# Of a steady pulse: chance makes less of it the longer it lasts; what is called a loop is given more credit.
MIN_REGULARITY, MIN_REGULARITY_1_S, MIN_LOOP_REGULARITY = 0.1, 0.4, 0.2
SAME_TEMPO = 0.03  # a name and the audio speak of the same tempo
SNAP_TEMPO = 0.012  # a length in whole bars tells exactly what the audio tells to half a percent
BARS = (1, 2, 4, 8, 16, 32)  # what loops are cut to
BAR_TOLERANCE = 0.004  # of the length
WHOLE_BARS_BONUS = 2.0  # of the likelihood's logarithm: 7 to 1
WHOLE_NUMBER_BONUS = 2.0
WHOLE_NUMBER_TOLERANCE = 0.02  # in BPM: ten times what cutting a loop of 2 s to a sample does at 200
LONGEST_LOOP_S = 60.0  # beyond it any tempo has a whole number of bars nearby, and it is a song
LONGEST_ONE_SHOT_S = 10.0


def estimate_rhythm(name: NameFacts, tempi: list[Tempo], duration_s: float) -> Rhythm:
    """Return the tempi that the audio may have, best first, and whether it is a loop by its audio and its names: by the
    word for it, by a tempo at which the length is whole bars, else by a steady pulse."""
    least = MIN_LOOP_REGULARITY if name.is_loop else MIN_REGULARITY + MIN_REGULARITY_1_S / math.sqrt(duration_s)
    if tempi and tempi[0].regularity < least:
        tempi = []
    return Rhythm(duration_s, tempi, _is_loop(name, bool(tempi), duration_s))


def _is_loop(name: NameFacts, has_pulse: bool, duration_s: float) -> bool | None:
    if name.is_loop is not None and (duration_s >= MIN_LOOP_S or not name.is_loop):
        return name.is_loop
    if name.stated_bpm is not None and _is_whole_bars(name.stated_bpm, duration_s):
        return True
    if has_pulse:
        return True if duration_s <= LONGEST_LOOP_S else None
    return False if duration_s <= LONGEST_ONE_SHOT_S else None


def tempo_candidates(onsets: Float32, center_bpm: float) -> list[Tempo]:
    """Return the local maxima of likelihood over `TEMPI_BPM`, best first: the sum of `tempo_cues`."""
    cues, regularity = tempo_cues(onsets, center_bpm)
    scores = np.sum(list(cues.values()), axis=0)
    around = sliding_window_view(np.pad(scores, 6, constant_values=-np.inf), 13).max(axis=1)
    tempi = [
        Tempo(float(TEMPI_BPM[i]), float(regularity[i]), float(scores[i])) for i in np.flatnonzero(scores == around)
    ]
    return sorted(tempi, key=lambda tempo: -tempo.score)


# What tells a beat from its half and its double, beside how alike the bars are (Ellis, "Beat tracking by dynamic
# programming", 2007, has that and the log-normal prior): weights of the correlation of onsets in two bands after so
# many beats. A snare comes a beat after a kick (low, middle) and returns after two (middle, middle); lows that return
# after half a beat, or highs after a quarter, say that the beat is shorter. Fitted once, as a logistic choice among all
# tempi, to 640 loops of a crude drum machine that is in no exam, and rounded.
LOW, MIDDLE, HIGH, ALL = range(4)
BEAT_WEIGHTS = {
    (LOW, MIDDLE, 1): 3.5,
    (LOW, MIDDLE, 0.5): 2.5,
    (LOW, MIDDLE, 2): -1.5,
    (MIDDLE, MIDDLE, 2): 2.0,
    (LOW, LOW, 0.5): -5.0,
    (LOW, LOW, 2): -2.0,
    (HIGH, HIGH, 0.5): 3.0,
    (HIGH, HIGH, 0.25): -2.5,
    (ALL, ALL, 0.75): 1.5,
    (ALL, ALL, 1.5): 3.0,
}
BAR_WEIGHT = 8.0  # of the mean autocorrelation after two and four beats
EVENT_WEIGHTS = {LOW: -0.4, MIDDLE: -0.6}  # of the square of the octaves between their events and one a beat
DISTANCE_WEIGHT = -4.0  # of the square of the octaves from `tempo_center_bpm`


def tempo_cues(onsets: Float32, center_bpm: float) -> tuple[dict[Any, Float64], Float64]:
    """Return what each cue adds to the likelihood of each of `TEMPI_BPM`, and the regularity at each, as in `Tempo`."""
    bands = [_without_trend(strength) for strength in (*onsets, onsets.sum(axis=0))]
    beat = 60 * SAMPLE_RATE_HZ / HOP / TEMPI_BPM
    pairs = {(one, other) for one, other, _ in BEAT_WEIGHTS} | {(ALL, ALL)}
    correlations = {(one, other): _correlation(bands[one], bands[other]) for one, other in pairs}
    reach = 0.8 * onsets.shape[1]  # beyond, too few beats are left to compare

    def after(beats: float, pair: tuple[int, int] = (ALL, ALL)) -> Float64:
        lags = beats * beat
        return np.where(lags <= reach, np.interp(lags, np.arange(onsets.shape[1]), correlations[pair]), np.nan)

    cues: dict[Any, Float64] = {
        key: weight * np.nan_to_num(after(key[2], key[:2])) for key, weight in BEAT_WEIGHTS.items()
    }
    for band, weight in EVENT_WEIGHTS.items():
        a_frame = _count_events(onsets[band]) / onsets.shape[1]
        cues["events", band] = weight * np.log2(a_frame * beat) ** 2 if a_frame else np.zeros(len(beat))
    cues["bars"] = BAR_WEIGHT * _mean_of_known(after(2), after(4))
    cues["distance"] = DISTANCE_WEIGHT * np.log2(TEMPI_BPM / center_bpm) ** 2
    return cues, _mean_of_known(after(1), after(2), after(4))


def _without_trend(strength: Float32) -> Float64:
    """Return `strength`, shape (n,), less its mean over the second around: a riser's slow rise is no rhythm."""
    around = np.ones(min(SAMPLE_RATE_HZ // HOP, len(strength)))
    mean = np.convolve(strength, around, "same") / np.convolve(np.ones(len(strength)), around, "same")
    return np.asarray(strength - mean)


def _correlation(one: Float64, other: Float64) -> Float64:
    """Return how alike two bands are after each lag, either first, shape (n,); 1 for the same; long lags not damped."""
    import scipy.fft

    length = len(one)
    spectrum = scipy.fft.rfft(one, 2 * length).conj() * scipy.fft.rfft(other, 2 * length)
    products = scipy.fft.irfft(spectrum.real)[:length]  # the real part is the mean of both orders
    energy = math.sqrt((one @ one) * (other @ other))
    return np.asarray(products / max(energy, NO_ENERGY) * length / (length - np.arange(length)))


def _count_events(strength: Float32) -> int:
    """Return how many peaks reach a fifth of the highest."""
    middle = strength[1:-1]
    peaks = (middle > strength[:-2]) & (middle >= strength[2:]) & (middle > 0.2 * np.percentile(strength, 99.5))
    return int(np.count_nonzero(peaks))


def _mean_of_known(*values: Float64) -> Float64:
    """Return the mean of those that are not NaN, 0 where all are, shape (n,)."""
    known = [np.isfinite(value) for value in values]
    return np.asarray(np.sum(np.nan_to_num(values), axis=0) / np.maximum(np.sum(known, axis=0), 1))


def decide_tempo(name: NameFacts, rhythm: Rhythm) -> tuple[float | None, str | None]:
    """Return the tempo in beats a minute and where it comes from: name, bars or audio; None for a one-shot and for
    audio without a steady pulse whose name states none.

    In this order: a tempo stated with its unit; a number in the name that the audio or a length in whole bars bears
    out; a tempo at which the length is whole bars, near one that the audio may have; what the audio is most likely to
    have.
    """
    if rhythm.is_loop is False:
        return None, None
    if name.stated_bpm is not None:
        return name.stated_bpm, "name"
    for number in name.numbers:
        if _is_borne_out(number, rhythm):
            return number, "name"
    whole_bars = _tempo_in_whole_bars(rhythm)
    if whole_bars is not None:
        return round(whole_bars, 3), "bars"
    return (round(rhythm.tempi[0].bpm, 1), "audio") if rhythm.tempi else (None, None)


def regularity_at(bpm: float | None, rhythm: Rhythm) -> float | None:
    """Return how regular the audio's pulse is at `bpm`, 0 to 1; None where it has none there."""
    return next((tempo.regularity for tempo in rhythm.tempi if bpm and _is_near(bpm, tempo.bpm)), None)


def _is_borne_out(bpm: float, rhythm: Rhythm) -> bool:
    heard = [octave * tempo.bpm for tempo in rhythm.tempi[:1] for octave in (0.5, 1, 2)]
    return any(_is_near(bpm, tempo) for tempo in heard) or _is_whole_bars(bpm, rhythm.duration_s)


def _is_whole_bars(bpm: float, duration_s: float) -> bool:
    bars = duration_s * bpm / 240
    return duration_s <= LONGEST_LOOP_S and any(abs(bars / whole - 1) <= BAR_TOLERANCE for whole in BARS)


def _is_near(bpm: float, other_bpm: float, tolerance: float = SAME_TEMPO) -> bool:
    return abs(bpm / other_bpm - 1) <= tolerance


def _tempo_in_whole_bars(rhythm: Rhythm) -> float | None:
    """Return the tempo at which the length is 1, 2, 4, … bars of 4/4 and which the audio is most likely to have.

    A tempo in whole beats a minute is favoured: 173 is what a producer sets, 86.5 is not.
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
