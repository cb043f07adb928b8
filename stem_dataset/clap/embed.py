"""Windows in, one vector a file out: batches, the one call of CLAP, and the mean over a file's windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from stem_dataset.audio.windowing import Waveforms
from stem_dataset.clap.engine import ClapModel, reference_signal
from stem_dataset.clap.vectors import blob_of, refuse_broken, well_formed
from stem_dataset.datatypes import EMBEDDING_SIZE, Float32, Int16, Windowed
from stem_dataset.errors import RunStopped


def embed_windows(model: ClapModel, windows: Sequence[Int16]) -> Float32:
    """Return one vector a window, shape (N, 512), from one call; a row that is bad twice is left bad.

    A bad row is embedded again alone. Where several are bad, or one stays bad, a reference signal decides whether it is
    the engine: then `RunStopped`, since no file is to blame.
    """
    vectors = _call_clap(model, windows)
    bad = np.flatnonzero(~well_formed(vectors))
    for row in bad:
        vectors[row] = _call_clap(model, [windows[row]])[0]
    if len(bad) > 1 or not well_formed(vectors).all():
        refuse_broken(_call_clap(model, [reference_signal()])[0])
    return vectors


def _call_clap(model: ClapModel, windows: Sequence[Int16]) -> Float32:
    try:
        vectors = np.array(model.get_audio_embedding_from_data(Waveforms(windows)), dtype=np.float32)
    except (RuntimeError, MemoryError) as error:
        text = f"CLAP failed on {len(windows)} windows: {type(error).__name__}: {error}"
        raise RunStopped(f"{text}. No file is to blame; if memory ran out, free some, or try --device cpu") from error
    if vectors.shape != (len(windows), EMBEDDING_SIZE):
        raise RunStopped(f"CLAP is broken: it answered {len(windows)} windows with an array of shape {vectors.shape}")
    return vectors


Batched = TypeVar("Batched", bound=Windowed)


def batches(files: Iterable[Batched], batch_windows: int) -> Iterator[list[Batched]]:
    """Yield lists of whole files with up to `batch_windows` windows together, at the end what is left."""
    batch: list[Batched] = []
    windows = 0
    for file in files:
        if batch and windows + len(file.windows) > batch_windows:
            yield batch
            batch, windows = [], 0
        batch.append(file)
        windows += len(file.windows)
    if batch:
        yield batch


def file_vectors(vectors: Float32, window_counts: Sequence[int]) -> list[bytes | None]:
    """Return the vector of each file as the database keeps it, from those of all their windows, (N, 512); None where
    one of them is not well-formed."""
    parts = np.split(vectors, np.cumsum(window_counts)[:-1])
    means = [(rows, file_vector(rows)) for rows in parts]
    return [blob_of(mean) if well_formed(rows).all() and well_formed(mean) else None for rows, mean in means]


def file_vector(vectors: Float32) -> Float32:
    """Return the vector of a file from those of its windows, (n, 512): the mean, normalised again."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # windows that cancel out are caught as not well-formed
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)
