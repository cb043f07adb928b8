"""Estimate the musical key of a sound, and decide which key it gets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stem_dataset.datatypes import Float64, Measurements, NameFacts
from stem_dataset.music.features import NO_ENERGY, PITCH_BIN_HZ, PITCH_CLASS_STEPS
from stem_dataset.music.name_category import DRUMS
from stem_dataset.music.name_key import NOTE_NAMES

# How often each degree of the scale occurs in major and in minor, from the tonic upwards, in 982 pieces (Albrecht and
# Shanahan, "The use of large corpora to train a new type of key-finding algorithm", Music Perception 31, 2013). Minor
# has as much of the flat seventh as of the leading note. With profiles that expect only the leading note, A minor with
# chords of G became G major.
KEY_PROFILES = np.array(
    [
        [0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081],
        [0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052],
    ]
)
# How much of a note's third harmonic, a fifth above the note, is in the chroma.
THIRD_HARMONIC = 0.03
KEY_NAMES = tuple(note + mode for mode in ("", "m") for note in NOTE_NAMES)
MIN_KEY_S = 1.5
MIN_KEY_CONFIDENCE = 0.45
# A key is the choice of a scale. Fewer notes than these leave it open: one hit or two notes fit many keys.
ENOUGH_NOTES = 4
MIN_CLARITY = 0.8
MIN_STEADY_SHARE = 0.75
MIN_NOTE_SHARE = 0.01


def key_deviations(third_harmonic: float) -> Float64:
    """Return the profile of each of `KEY_NAMES` minus its mean, of length 1, shape (24, 12).

    The notes, from C upwards, sound with this share of their third harmonics.
    """
    sounding = KEY_PROFILES + third_harmonic * np.roll(KEY_PROFILES, 7, axis=1)
    rows = np.array([np.roll(profile - profile.mean(), tonic) for profile in sounding for tonic in range(12)])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


KEY_DEVIATIONS = key_deviations(THIRD_HARMONIC)


def estimate_keys(pitch_classes: Float64) -> Float64:
    """Return the confidence of each of `KEY_NAMES`, shape (24,).

    `pitch_classes` are those of `Measurements`. The confidence is the product of three numbers:

    - The correlation of the chroma with the key's profile (Krumhansl, "Cognitive Foundations of Musical Pitch", 1990).
      The profile includes the notes' third harmonics (as in Gómez, "Tonal description of polyphonic audio", 2006).
    - The square root of the share of energy that is in tune with one tempered scale, whatever its tuning. Notes are in
      tune, noise is not.
    - The number of notes, as a share of `ENOUGH_NOTES`, up to 1. Quiet notes count less: it is the number of equally
      loud notes that are as concentrated as the chroma (the inverse of Simpson's index).
    """
    chroma, in_tune = tuned_chroma(pitch_classes)
    if not chroma.any():
        return np.zeros(len(KEY_NAMES))
    deviation = chroma - chroma.mean()
    correlations = KEY_DEVIATIONS @ deviation / max(float(np.linalg.norm(deviation)), NO_ENERGY)
    notes = chroma.sum() ** 2 / np.square(chroma).sum()
    return np.asarray(np.maximum(correlations, 0) * math.sqrt(in_tune) * min(1, notes / ENOUGH_NOTES))


def tuned_chroma(pitch_classes: Float64) -> tuple[Float64, float]:
    """Return how much of each note sounds, and the share in tune.

    The notes are from C upwards, shape (12,). The share is 0 to 1. The tuning is the mean direction of the deviations
    from A = 440 Hz, on the circle of one semitone.
    """
    steps = PITCH_CLASS_STEPS // 12
    mean = pitch_classes @ np.exp(2j * np.pi * np.arange(PITCH_CLASS_STEPS) / steps)
    in_tune = abs(mean) / max(pitch_classes.sum(), NO_ENERGY)
    tuning = round(np.angle(mean) / (2 * np.pi) * steps)
    # Each row is one note with the steps around it; the middle step is the note itself.
    notes = np.roll(pitch_classes, steps // 2 - tuning).reshape(12, steps)
    nearness = np.cos(np.pi * (np.arange(steps) / steps - 0.5)) ** 2
    return np.roll(notes @ nearness, NOTE_NAMES.index("A")), float(in_tune)


def single_pitch_hz(measured: Measurements) -> float | None:
    """Return the pitch of a file that is a single note, else None.

    An example is a one-shot of a bass. The pitch is the median of the frames. Nearly all frames must be clear and
    within half a semitone of it.
    """
    hz, clarity, energy = measured.pitches.T
    # Frames more than 30 dB below the loudest do not count.
    weight = np.where(energy >= 1e-3 * energy.max(), np.sqrt(energy), 0)
    clear = (clarity >= MIN_CLARITY) & (weight > 0)
    if not clear.any():
        return None
    order = np.argsort(hz[clear])
    summed = np.cumsum(weight[clear][order])
    pitch_hz = float(hz[clear][order][np.searchsorted(summed, summed[-1] / 2)])
    steady = clear & (np.abs(np.log2(np.where(clear, hz, pitch_hz) / pitch_hz)) <= 0.5 / 12)
    if weight[steady].sum() < MIN_STEADY_SHARE * weight.sum():
        return None
    return round(pitch_hz, 2) if _is_played(pitch_hz, measured.spectrum) else None


def _is_played(pitch_hz: float, spectrum: Float64) -> bool:
    """Whether `spectrum` has energy at this pitch.

    If it does, the sound is a note, and not a chord with the same period. Most chords have energy neither at that pitch
    nor at its octave. A fifth (2:3) has energy at the octave, but not at the harmonics that are multiples of neither 2
    nor 3. A bass whose fundamental is cut off has those.
    """
    bins = np.rint(pitch_hz * np.array([1, 2, 5, 7]) / PITCH_BIN_HZ).astype(int)
    first, second, fifth, seventh = (spectrum[max(bin_ - 2, 0) : bin_ + 3].sum() for bin_ in bins)
    return bool(min(first + second, first + fifth + seventh) >= MIN_NOTE_SHARE * spectrum.sum())


def decide_key(
    name: NameFacts, confidences: Sequence[float], pitch_hz: float | None, duration_s: float
) -> tuple[str | None, float | None, str | None]:
    """Return the key, its confidence, and its source (name or audio).

    The confidence is how well the audio fits the key, 0 to 1. `confidences` are those of `KEY_NAMES`. The key is None
    for a single note (which has a pitch instead), for audio without a clear key, and for drums. If the name says only
    the root of the key, the key is the likelier one on that root.
    """
    if name.key is not None:
        return name.key, confidences[KEY_NAMES.index(name.key)], "name"
    if name.key_root is not None:
        # The name says the root, the audio the mode.
        on_root = {name.key_root, name.key_root + "m"}
        confidences = [c if key in on_root else 0.0 for key, c in zip(KEY_NAMES, confidences, strict=True)]
    confidence = max(confidences)
    if duration_s < MIN_KEY_S or confidence < MIN_KEY_CONFIDENCE or pitch_hz is not None or name.category in DRUMS:
        return None, None, None
    return KEY_NAMES[confidences.index(confidence)], confidence, "audio"
