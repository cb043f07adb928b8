"""What `analyse` may say, for the tests in which the analysis is not the subject.

Importing librosa's filters takes longer than all else in a run on small files, and each process that a test starts pays
for it anew.
"""

from __future__ import annotations

import numpy as np

from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.datatypes import SAMPLE_RATE_HZ, Measurements
from stem_dataset.music.features import HOP, PITCH_BINS, PITCH_CLASS_STEPS, PITCH_HOP


def plausible_measurements(audio: StandardisedAudio) -> Measurements:
    """Return what `analyse` may say of a tone at half of full scale, without pitch, beat or a look at the samples."""
    features = {
        **{"spectral_centroid": 440.0, "zero_crossing_rate": 0.018, "rms": 0.354, "spectral_rolloff": 460.0},
        **{"spectral_bandwidth": 30.0, "peak_dbfs": -6.02, "loudness_lufs": -9.8},
    }
    return Measurements(
        audio.length / SAMPLE_RATE_HZ,
        dict(features),
        onsets=np.zeros((3, 1 + audio.length // HOP), np.float32),
        pitch_classes=np.zeros(PITCH_CLASS_STEPS),
        pitches=np.zeros((1 + audio.length // PITCH_HOP, 3)),
        spectrum=np.zeros(PITCH_BINS),
    )
