"""Fit the weights of stem_dataset/music/tempo_weights.py:   python benchmarks/fit_tempo.py [--seed N] [--pieces N]

Makes pieces of known tempo (tempo_music.py), and fits a logistic choice among all tempi and both divisions of the beat:
the likelihood of the true tempo, whatever the division, with a penalty on the squares of the weights. Prints the two
tables, and how many tempi are right with them. Nothing is read but what the script makes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import logsumexp

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "fixtures")]

from stem_dataset.audio.wav import StandardisedAudio  # noqa: E402
from stem_dataset.music.features import analyse  # noqa: E402
from stem_dataset.music.tempo import TEMPI_BPM, tempo_cues  # noqa: E402
from stem_dataset.music.tempo_weights import (  # noqa: E402
    DISTANCE_WEIGHT,
    DIVISION_WEIGHTS,
    LAGS_BEATS,
    PAIRS,
    RATES_A_BEAT,
)
from tempo_music import a_piece  # noqa: E402

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Every second tempo is enough to fit, and takes half the memory.
TEMPI = TEMPI_BPM[::2]
# A tempo this near to the true one, in octaves, is right.
NEAR_OCTAVES = 0.036
PENALTY = 0.003
ROUNDS = 60


def examine(task: tuple[int, int]) -> tuple[float, Float32]:
    """Make a piece; return its tempo and its cues, shape (divisions, cues, tempi)."""
    piece = a_piece(*task)
    with tempfile.TemporaryDirectory() as folder, StandardisedAudio(Path(folder)) as audio:
        audio.append(piece.samples)
        audio.finish()
        cues, _ = tempo_cues(analyse(audio).onsets)
    return piece.bpm, np.stack([values[:, ::2] for values in cues.values()]).astype(np.float32)


def fit(cues: Float32, is_near: npt.NDArray[np.bool_]) -> Float64:
    """Return the weights, shape (divisions, cues).

    cues: shape (pieces, divisions, cues, tempi)
    is_near: shape (pieces, tempi)
    """
    pieces, divisions = cues.shape[:2]
    # The penalty is on weights of cues of equal spread.
    spread = cues.std(axis=(0, 3)) + 1e-9
    distance = DISTANCE_WEIGHT * np.log2(TEMPI / 120) ** 2
    others = np.where(is_near, 0, -1e9)[:, np.newaxis]

    def loss(values: Float64) -> tuple[float, Float64]:
        scores = scores_of(cues, values.reshape(spread.shape) / spread) + distance
        all_scores, near_scores = (logsumexp(part, axis=(1, 2)) for part in (scores, scores + others))
        slope = np.exp(scores - all_scores[:, None, None]) - np.exp(scores + others - near_scores[:, None, None])
        slope /= pieces
        of_weights = np.stack(
            [np.einsum("pct,pt->c", cues[:, i], slope[:, i].astype(np.float32)) for i in range(divisions)]
        )
        gradient = (of_weights / spread).ravel() + 2 * PENALTY * values
        return float(np.mean(all_scores - near_scores) + PENALTY * values @ values), gradient

    found = minimize(loss, np.zeros(spread.size), jac=True, method="L-BFGS-B", options={"maxiter": ROUNDS})
    return np.asarray(found.x.reshape(spread.shape) / spread)


def scores_of(cues: Float32, weights: Float64) -> Float64:
    """Return the scores, shape (pieces, divisions, tempi)."""
    return np.asarray(np.einsum("pdct,dc->pdt", cues, weights.astype(np.float32), optimize=True), np.float64)


def print_table(name: str, weights: Sequence[float]) -> None:
    """Print the rows of one division as they are in the module."""
    lags, rates = len(LAGS_BEATS[name]), len(RATES_A_BEAT[name])
    lengths = [lags] * len(PAIRS) + [rates] * 3 + [3]
    print(f'    "{name}": (')
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        print(f"        ({', '.join(f'{weight:.2f}' for weight in weights[end - length : end])}),")
    print("    ),")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="another random seed than the usual one (%(default)s)")
    parser.add_argument("--pieces", type=int, default=1_500, help="how many to make (%(default)s)")
    parser.add_argument("--workers", type=int, default=None, help="processes; default: one for each core")
    options = parser.parse_args(argv)
    tasks = [(options.seed, number) for number in range(options.pieces)]
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        examined: list[Any] = list(pool.map(examine, tasks, chunksize=8))
    true_bpm = np.array([bpm for bpm, _ in examined])
    cues = np.stack([values for _, values in examined])
    off = np.abs(np.log2(TEMPI / true_bpm[:, None]))
    weights = fit(cues, off < NEAR_OCTAVES)
    for name, row in zip(DIVISION_WEIGHTS, weights, strict=True):
        print_table(name, list(row))
    best = (scores_of(cues, weights) + DISTANCE_WEIGHT * np.log2(TEMPI / 120) ** 2).max(axis=1).argmax(axis=1)
    print(f"right within 4 % on the same pieces: {np.mean(np.abs(TEMPI[best] / true_bpm - 1) <= 0.04):.1%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
