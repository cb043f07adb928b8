"""Vectors laid out in two dimensions, so that what sounds alike lies together."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from stem_dataset.datatypes import Float32
from stem_dataset.search.sound_neighbours import Neighbours, nearest_of_each

# UMAP's own defaults.
NEAREST = 15
LEAST_DISTANCE = 0.1
# Fewer are laid out by their principal components: UMAP needs more than `NEAREST`, and shows little with so few.
UMAP_NEEDS = 32
# UMAP begins with places from 0 to 10. It cannot separate two that begin at the same place.
WIDTH = 10.0
NOISE = 1e-3

# Called with what is being done, the steps that are done, and all steps. It may raise, to stop.
Report = Callable[[str, int, int], None]


def method_for(rows: int) -> str:
    """Return how this many rows are laid out."""
    return "UMAP" if rows >= UMAP_NEEDS else "PCA"


def project(neighbours: Neighbours, seed: int, report: Report) -> Float32:
    """Return the places, (n, 2), of the stems, from -1 to 1. The same seed gives the same places.

    UMAP (McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction",
    2018, https://arxiv.org/abs/1802.03426) with the distance 1 - cosine. It starts from the principal components, which
    keeps the large distances meaningful (Kobak and Linderman, "Initialization is critical for preserving global data
    structure in both t-SNE and UMAP", Nature Biotechnology 39, 2021).
    """
    vectors = neighbours.vectors
    if method_for(len(vectors)) == "PCA":
        return in_box(principal_components(vectors))
    return in_box(_umap(neighbours, seed, report))


def principal_components(vectors: Float32) -> Float32:
    """Return the first two principal components of each of `vectors`, (n, 2); noughts for one or none."""
    if len(vectors) < 2:
        return np.zeros((len(vectors), 2), np.float32)
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    first_two = axes[:, :-3:-1]
    # An eigenvector may come with either sign, which depends on the library.
    signs = np.sign(first_two[np.abs(first_two).argmax(axis=0), [0, 1]])
    return np.asarray(centred @ (first_two * signs).astype(np.float32), np.float32)


def in_box(places: Float32) -> Float32:
    """Return `places`, (n, 2), moved and scaled, both axes alike, so that the longer one reaches from -1 to 1."""
    if len(places) == 0:
        return places.astype(np.float32)
    least, most = places.min(axis=0).astype(np.float64), places.max(axis=0).astype(np.float64)
    half = float((most - least).max()) / 2
    # What rounding leaves of equal vectors is no distance.
    scaled = (places - (least + most) / 2) / half if half > NOISE**2 else np.zeros(places.shape)
    return np.clip(scaled, -1, 1).astype(np.float32)


def _umap(neighbours: Neighbours, seed: int, report: Report) -> Float32:
    """Return the places that UMAP finds, of any scale."""
    vectors = neighbours.vectors
    rows = len(vectors)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report("comparing stems", done, rows)

    indexes, distances = nearest_of_each(neighbours, NEAREST, advance)
    report("preparing UMAP", 0, 1)
    with warnings.catch_warnings():
        # UMAP warns of optional packages that are not installed.
        warnings.simplefilter("ignore")
        # Deferred: it takes seconds, and half a minute where numba compiles it for the first time.
        from umap.umap_ import find_ab_params, fuzzy_simplicial_set, simplicial_set_embedding

        # These are the two halves of UMAP.fit. The class would look for the neighbours once more.
        random = np.random.RandomState(seed)
        graph = fuzzy_simplicial_set(
            vectors, NEAREST, random, "cosine", knn_indices=indexes, knn_dists=distances, verbose=False
        )[0]
        report("preparing UMAP", 1, 1)
        a, b = find_ab_params(1.0, LEAST_DISTANCE)
        places = simplicial_set_embedding(
            data=vectors,
            graph=graph,
            n_components=2,
            initial_alpha=1.0,
            a=a,
            b=b,
            gamma=1.0,
            negative_sample_rate=5,
            n_epochs=None,
            init=_beginning(vectors, seed),
            random_state=random,
            metric="cosine",
            metric_kwds={},
            densmap=False,
            densmap_kwds={},
            output_dens=False,
            # With threads, the same seed would not give the same places.
            parallel=False,
            tqdm_kwds=_bar_that_calls(report),
        )[0]
    return np.asarray(places, np.float32)


def _beginning(vectors: Float32, seed: int) -> Float32:
    """Return the places, (n, 2), that UMAP starts from; no two are the same."""
    places = in_box(principal_components(vectors)) * (WIDTH / 2)
    noise = np.random.default_rng(seed).normal(scale=NOISE, size=places.shape)
    return np.asarray(places + noise, np.float32)


class _EpochReader:
    """What UMAP's bar writes to. UMAP has no other hook between two epochs."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def write(self, text: str) -> None:
        """Report the epochs that the bar shows."""
        if match := re.search(r"(\d+)/(\d+)", text):
            self.report("laying out", int(match[1]), int(match[2]))

    def flush(self) -> None:
        """Do nothing: nothing is kept."""


def _bar_that_calls(report: Report) -> dict[str, Any]:
    """Return the settings of UMAP's bar with which each epoch is reported."""
    bar_format = "{n_fmt}/{total_fmt}"
    return {
        "file": _EpochReader(report),
        "disable": False,
        "bar_format": bar_format,
        "mininterval": 0,
        "miniters": 1,
        "ascii": True,
    }
