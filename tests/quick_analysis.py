"""What `analyse` may say, for the tests in which the analysis is not the subject.

Importing librosa's filters takes longer than all else in a run on small files, and each process that a test starts pays
for it anew.
"""

from __future__ import annotations

import numpy as np

import prepare_dataset_sql as product
from prepare_dataset_sql import Measurements


def plausible_measurements(audio: product.StandardisedAudio) -> Measurements:
    """Return what `analyse` may say of a tone at half of full scale, without pitch, beat or a look at the samples."""
    features = {
        **{"spectral_centroid": 440.0, "zero_crossing_rate": 0.018, "rms": 0.354, "spectral_rolloff": 460.0},
        **{"spectral_bandwidth": 30.0, "peak_dbfs": -6.02, "loudness_lufs": -9.8},
    }
    return Measurements(
        audio.length / product.SAMPLE_RATE_HZ,
        dict(features),
        onsets=np.zeros((3, 1 + audio.length // product.HOP), np.float32),
        pitch_classes=np.zeros(product.PITCH_CLASS_STEPS),
        pitches=np.zeros((1 + audio.length // product.PITCH_HOP, 3)),
        spectrum=np.zeros(product.PITCH_BINS),
    )
