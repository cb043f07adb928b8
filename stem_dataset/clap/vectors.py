"""Check, compare and convert CLAP's vectors.

A module of its own, because the commands need it and must not load the engines.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stem_dataset.datatypes import EMBEDDING_SIZE, Float32
from stem_dataset.errors import RunStopped

UNIT_NORM_TOLERANCE = 1e-3

BAD_VECTOR_TEXT = f"CLAP's vector is not {EMBEDDING_SIZE} finite numbers of unit length, even when embedded alone"


def cosine_distance_of(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Return 1 - cosine of two vectors, computed in float64.

    It is NaN if one of them is zero or not finite.
    """
    x, y = np.array(a, np.float64), np.array(b, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(1 - x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def refuse_broken(vector: Float32) -> Float32:
    """Return the vector, (512,), of `reference_signal`; raises `RunStopped` if it is not well-formed."""
    if not well_formed(vector):
        text = "CLAP is broken: its vector for a reference signal is not finite or not of unit length"
        raise RunStopped(f"{text}; install what requirements.txt pins, or try another --device")
    return vector


def well_formed(vectors: Float32) -> npt.NDArray[np.bool_]:
    """Whether each row of (..., 512) is finite and of unit length.

    The tolerance is 1e-3. The length of a row with NaN is NaN.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1)
    return np.asarray(np.abs(lengths - 1) <= UNIT_NORM_TOLERANCE)


def cosine_distance(a: bytes, b: bytes) -> float:
    """Return 1 - cosine of two vectors in the database's format."""
    return cosine_distance_of(np.frombuffer(a, "<f4"), np.frombuffer(b, "<f4"))


def cosine_of(a: bytes, b: bytes) -> float:
    """Return the cosine of two vectors in the database's format.

    It is NaN if one of them is zero or not finite.
    """
    return 1 - cosine_distance(a, b)


def blob_of(vector: Float32) -> bytes:
    """Return a vector, (512,), in the database's format: little-endian float32."""
    return vector.astype("<f4").tobytes()
