"""Fit the weights of stem_dataset/music/tempo_weights.py: python benchmarks/fit_tempo.py [--pieces N] [--write]

Makes pieces of known tempo (tempo_music.py), and fits a logistic choice among all tempi and both divisions of the beat:
the likelihood of the true tempo, whatever the division, with a penalty on the squares of the weights. Nothing is read
but what the script makes. Prints the tables as they are in the module, and how many tempi are right with them and with
the module's present ones, on pieces that were not fitted. --write puts the tables into the module.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
)
from tempo_music import Piece, a_lone_piece, a_piece  # noqa: E402

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Tables = Mapping[str, Sequence[Sequence[float]]]

MODULE = REPOSITORY / "stem_dataset" / "music" / "tempo_weights.py"
TABLES_BEGIN, TABLES_END = "DIVISION_WEIGHTS = {\n", "}  # fmt: skip\n"
# Every second tempo is enough to fit, and takes half the memory.
TEMPI = TEMPI_BPM[::2]
# What is added to the scores without being fitted.
DISTANCE_SCORES = DISTANCE_WEIGHT * np.log2(TEMPI / 120) ** 2
# A tempo this near to the true one, in octaves, is right.
NEAR_OCTAVES = 0.036
PENALTY = 0.003
ROUNDS = 60


class Examined(NamedTuple):
    """A piece: its kind, its tempo, and its cues, shape (divisions, cues, tempi)."""

    kind: str
    bpm: float
    cues: Float32


@dataclass(frozen=True)
class Pieces:
    """Many pieces; each array has one more axis than in `Examined`, the first."""

    kinds: npt.NDArray[np.str_]
    bpm: Float64
    cues: Float32

    @property
    def is_near(self) -> npt.NDArray[np.bool_]:
        """Whether each of `TEMPI` is right, shape (pieces, tempi)."""
        return np.asarray(np.abs(np.log2(TEMPI / self.bpm[:, np.newaxis])) < NEAR_OCTAVES)


def examine(task: tuple[Callable[[int, int], Piece], int, int]) -> Examined:
    """Make the piece of a seed and a number, and measure it."""
    make, seed, number = task
    piece = make(seed, number)
    with tempfile.TemporaryDirectory() as folder, StandardisedAudio(Path(folder)) as audio:
        audio.append(piece.samples)
        audio.finish()
        cues, _ = tempo_cues(analyse(audio).onsets)
    return Examined(piece.kind, piece.bpm, np.stack([values[:, ::2] for values in cues.values()]).astype(np.float32))


def pieces_of(examined: Iterable[Examined]) -> Pieces:
    return Pieces(*(np.array(values) for values in zip(*examined, strict=True)))


def fit(pieces: Pieces) -> Float64:
    """Return the weights, shape (divisions, cues)."""
    cues = pieces.cues
    # The penalty is on weights of cues of equal spread.
    spread = cues.std(axis=(0, 3)) + 1e-9
    others = np.where(pieces.is_near, 0, -1e9)[:, np.newaxis]

    def loss(values: Float64) -> tuple[float, Float64]:
        scores = scores_of(cues, values.reshape(spread.shape) / spread) + DISTANCE_SCORES
        all_scores, near_scores = (logsumexp(part, axis=(1, 2)) for part in (scores, scores + others))
        slope = np.exp(scores - all_scores[:, None, None]) - np.exp(scores + others - near_scores[:, None, None])
        slope /= len(cues)
        of_weights = np.stack(
            [np.einsum("pct,pt->c", cues[:, i], slope[:, i].astype(np.float32)) for i in range(len(spread))]
        )
        gradient = (of_weights / spread).ravel() + 2 * PENALTY * values
        return float(np.mean(all_scores - near_scores) + PENALTY * values @ values), gradient

    found = minimize(loss, np.zeros(spread.size), jac=True, method="L-BFGS-B", options={"maxiter": ROUNDS})
    return np.asarray(found.x.reshape(spread.shape) / spread)


def scores_of(cues: Float32, weights: Float64) -> Float64:
    """Return the scores, shape (pieces, divisions, tempi)."""
    return np.asarray(np.einsum("pdct,dc->pdt", cues, weights.astype(np.float32), optimize=True), np.float64)


def tables_of(weights: Float64) -> Tables:
    """Return the weights, shape (divisions, cues), rounded and in the rows of `DIVISION_WEIGHTS`."""
    tables = {}
    for (name, rows), values in zip(DIVISION_WEIGHTS.items(), weights, strict=True):
        ends = np.cumsum([len(row) for row in rows])
        split = np.split(values, ends[:-1])
        # The rates of events, in the last row, have small weights for large cues.
        # Adding zero makes -0.0 zero.
        tables[name] = [[round(float(value), 2 if row is split[-1] else 1) + 0.0 for value in row] for row in split]
    return tables


def text_of(tables: Tables) -> str:
    """Return the tables as they are in the module."""
    lines = []
    for name, rows in tables.items():
        texts = [", ".join(f"{value:.{2 if row is rows[-1] else 1}f}" for value in row) for row in rows]
        lines += [f'    "{name}": (', *(f"        ({text})," for text in texts), "    ),"]
    return "\n".join(lines) + "\n"


def with_tables(module: str, tables: Tables) -> str:
    """Return the module's text with these tables."""
    before, rest = module.split(TABLES_BEGIN)
    return before + TABLES_BEGIN + text_of(tables) + TABLES_END + rest.split(TABLES_END)[1]


def right(pieces: Pieces, tables: Tables) -> npt.NDArray[np.bool_]:
    """Return for each piece whether the best tempo is within 4 %.

    It is chosen as in tempo.py, but for the regularity, whose weight is small and not fitted.
    """
    weights = np.array([np.concatenate(rows) for rows in tables.values()])
    best = (scores_of(pieces.cues, weights).max(axis=1) + DISTANCE_SCORES).argmax(axis=1)
    return np.asarray(np.abs(TEMPI[best] / pieces.bpm - 1) <= 0.04)


def print_right(pieces: Pieces, columns: Mapping[str, Tables]) -> None:
    """Print a Markdown table: for each kind of piece, how many tempi are right with each column's tables."""
    marks = {name: right(pieces, tables) for name, tables in columns.items()}
    print(f"\n| right within 4 % | pieces | {' | '.join(marks)} |\n|---|---:|{'---:|' * len(marks)}")
    for kind in ("", *np.unique(pieces.kinds)):
        chosen = pieces.kinds == kind if kind else np.ones(len(pieces.kinds), bool)
        shares = [f"{100 * float(np.mean(mark[chosen])):.1f} %" for mark in marks.values()]
        print(f"| {kind or 'all'} | {np.count_nonzero(chosen)} | {' | '.join(shares)} |")


def made(seed: int, count: int, lone_count: int, workers: int | None) -> Pieces:
    tasks = [(a_piece, seed, number) for number in range(count)]
    tasks += [(a_lone_piece, seed, number) for number in range(lone_count)]
    if workers == 1:
        return pieces_of(map(examine, tasks))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pieces_of(pool.map(examine, tasks, chunksize=8))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="another random seed than the usual one (%(default)s)")
    parser.add_argument("--pieces", type=int, default=1_500, help="how many to make and fit (%(default)s)")
    parser.add_argument("--lone", type=int, default=0, help="how many lone kicks, snares and hats to add (%(default)s)")
    parser.add_argument("--others", type=int, default=500, help="how many to make and only examine (%(default)s)")
    parser.add_argument("--workers", type=int, default=None, help="processes; default: one for each core")
    parser.add_argument("--write", action="store_true", help="put the tables into the module")
    options = parser.parse_args(argv)
    fitted = tables_of(fit(made(options.seed, options.pieces, options.lone, options.workers)))
    print(TABLES_BEGIN + text_of(fitted) + TABLES_END, end="")
    # The seeds that follow are other fits'.
    others = made(options.seed + 1_000, options.others, options.others // 5, options.workers)
    print_right(others, {"these": fitted, "the module's": DIVISION_WEIGHTS})
    if options.write:
        MODULE.write_text(with_tables(MODULE.read_text(encoding="utf-8"), fitted), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
