"""What the constants of the key from audio do, each over a grid of values: python benchmarks/fit_key.py [--seed N]

    FULL_WEIGHT_HZ      in stem_dataset/music/features.py: above this, notes count less
    PITCH_CLASS_FRAMES  there too: parts of this length count the same, loud or quiet
    THIRD_HARMONIC      in stem_dataset/music/key.py: how much of it the profiles expect

Makes music of known key from progressions of its own, of which many tempt to the other mode: chords, bass, melody and
drums, a third of it off the tuning of 440 Hz, a third with loud and quiet bars. Beside it, drums alone, which have no
key. Nothing else is read; no benchmark that reports a figure uses this music. Prints a table for each constant, with
the others at their present values, and the best of all combinations. "difference" is that of the MIREX score from the
present one, with its standard error: below two of those, it may be chance.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
import soxr

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "fixtures")]

from bench_metadata import mirex_score  # noqa: E402
from make_music import KEYS, Chord, between, chords_of, dice, finished, one_of, reverberated  # noqa: E402
from make_stems import Signal  # noqa: E402
from stem_dataset.audio.wav import StandardisedAudio  # noqa: E402
from stem_dataset.music import features, key  # noqa: E402
from tempo_music import (  # noqa: E402
    DUPLE_STYLES,
    RATE_HZ,
    Metre,
    Plan,
    backing,
    bar_part,
    drum_part,
    levelled,
    melody_part,
)

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# By mode; "m" is minor. Minor with the major chords of its relative and with the major chord of its fourth step, major
# with the minor ones of its second, third and sixth: each has the notes of another key, too.
CHANGES = {
    "": (
        *("I V vi iii IV I IV V", "I vi ii V I I IV I", "vi IV I V I", "I iii vi IV I V I", "I ii iii IV V I"),
        *("I IV I V", "I I IV V", "IV V iii vi ii V I I", "I vi IV I", "ii IV I I", "I IV iv I", "I V IV I"),
    ),
    "m": (
        *("i VII VI V i", "i VII i v", "i III VII iv i", "i VI III VII i i", "i IV i VII", "i iv VII III VI V7 i i"),
        *("i v iv i", "i VI VII i", "i iv v i", "i VII III VI i", "i i iv V7 i", "i IV VII i"),
    ),
}


# Each fifth piece is drums alone.
KEYLESS_EVERY = 5
# The values of each constant; the parts are in seconds, and the last of them is the whole file.
GRID: dict[str, tuple[float, ...]] = {
    "notes count in full up to (Hz)": (150, 250, 350, 500, 700, 1_000, 1_500, 3_000),
    "parts that count the same (s)": (0.1, 0.25, 0.5, 1, 2, 4, math.inf),
    "third harmonic in the profiles": (0, 0.015, 0.03, 0.045, 0.06, 0.09, 0.12),
}
PRESENT = (features.FULL_WEIGHT_HZ, 0.5, key.THIRD_HARMONIC)


class Piece(NamedTuple):
    """Samples at `RATE_HZ`, and their key; None for drums."""

    samples: Float32
    key: str | None


class Examined(NamedTuple):
    """A piece's key, and the confidence of each key, with an axis for each of `GRID` before it."""

    key: str | None
    confidences: Float64


@dataclass(frozen=True)
class Marks:
    """What one choice of values gives: two scores of each piece with a key, and whether the others got none."""

    exact: Float64
    mirex: Float64
    is_null: Float64


# ------------------------------------------------------------------------------------------------------- the music


def a_piece(seed: int, number: int) -> Piece:
    """Return music in a key, or drums; it depends on the seed and the number alone."""
    rng = dice(seed, "key", number)
    name = None if number % KEYLESS_EVERY == KEYLESS_EVERY - 1 else one_of(rng, KEYS)
    chords = chords_of(one_of(rng, CHANGES["m" if name and name.endswith("m") else ""]), name or "C")
    is_tune = rng.random() < 0.5
    bars = len(chords) * (2 if is_tune else 1)
    bpm = float(np.clip(240 * bars / between(rng, 5, 17), 60, 200))
    plan = Plan(Metre(4, 4), bpm, bars, 0.0, 0.004, rng)
    drums = levelled(drum_part(plan, one_of(rng, DUPLE_STYLES)))
    if name is None:
        sound = drums
    else:
        sound = np.sum(tune(plan, chords, name) if is_tune else loop(plan, chords), axis=0)
        if rng.random() < 1 / 3:
            sound = sound * loudness_of_bars(plan, len(sound))
        if rng.random() < 0.5:
            sound = levelled(sound) + rng.uniform(0.2, 1.2) * drums
        if rng.random() < 1 / 3:
            sound = soxr.resample(sound, RATE_HZ * 2 ** (rng.uniform(-50, 50) / 1_200), RATE_HZ)
    if rng.random() < 0.4:
        sound = reverberated(sound, rng, RATE_HZ, between(rng, 0.3, 1.8))
    samples = finished(sound, rng, RATE_HZ)
    return Piece(np.asarray(samples.mean(axis=1) if samples.ndim == 2 else samples, np.float32), name)


def tune(plan: Plan, chords: Sequence[Chord], name: str) -> list[Signal]:
    """Return a melody, mostly with bass and chords, of which each lasts two bars."""
    parts = [plan.rng.uniform(0.4, 1) * levelled(melody_part(plan, chords, name))]
    return parts + (backing(plan, chords) if plan.rng.random() < 0.8 else [])


def loop(plan: Plan, chords: Sequence[Chord]) -> list[Signal]:
    """Return chords, mostly with a bass; each lasts a bar."""
    parts = [levelled(bar_part(plan, chords, is_bass=False))]
    if plan.rng.random() < 0.7:
        parts.append(plan.rng.uniform(0.3, 1.2) * levelled(bar_part(plan, chords, is_bass=True)))
    return parts


def loudness_of_bars(plan: Plan, frames: int) -> Signal:
    """Return a gain for each frame; a bar may be 24 dB below another."""
    levels_db = plan.rng.uniform(-24, 0, plan.bars + 1)
    return np.asarray(10 ** (np.interp(np.linspace(0, plan.bars, frames), np.arange(plan.bars + 1), levels_db) / 20))


# ------------------------------------------------------------------------------------------------------ the scores


def examine(task: tuple[int, int]) -> Examined:
    """Make the piece of a seed and a number; estimate its key with each combination of values."""
    piece = a_piece(*task)
    notes = note_spectra(piece.samples)
    hertz, parts_s, third_harmonics = GRID.values()
    deviations = [key.key_deviations(share) for share in third_harmonics]
    confidences = np.empty((len(hertz), len(parts_s), len(deviations), len(key.KEY_NAMES)))
    for (i, full_weight_hz), (j, part_s) in itertools.product(enumerate(hertz), enumerate(parts_s)):
        frames = round(min(part_s, 1e6) * RATE_HZ / features.PITCH_HOP)
        with mock.patch.multiple(features, FULL_WEIGHT_HZ=full_weight_hz, PITCH_CLASS_FRAMES=frames):
            pitch_classes = features._pitch_classes(notes)
        for k, deviation in enumerate(deviations):
            with mock.patch.multiple(key, KEY_DEVIATIONS=deviation):
                confidences[i, j, k] = key.estimate_keys(pitch_classes)
    return Examined(piece.key, confidences)


def note_spectra(samples: Float32) -> Float32:
    """Return what `features._pitch_classes` takes."""
    with tempfile.TemporaryDirectory() as folder, StandardisedAudio(Path(folder)) as audio:
        audio.append(samples)
        audio.finish()
        frames = 1 + audio.length // features.PITCH_HOP
        firsts = range(0, frames, features.PITCH_FRAMES)
        blocks = [
            features._pitch_spectrum(audio, first, min(first + features.PITCH_FRAMES, frames)) for first in firsts
        ]
    return np.concatenate(blocks)[:, : features.PITCH_CLASS_BINS.stop + 1]


def answer(confidences: Float64) -> str | None:
    """Return the key that `decide_key` chooses."""
    best = int(confidences.argmax())
    return key.KEY_NAMES[best] if confidences[best] >= key.MIN_KEY_CONFIDENCE else None


def marks_at(examined: Sequence[Examined], place: tuple[int, ...]) -> Marks:
    """Return the marks with the values at a place in the grid."""
    keyed = [(one.key, answer(one.confidences[place])) for one in examined if one.key]
    keyless = [answer(one.confidences[place]) for one in examined if not one.key]
    exact = np.array([float(truth == given) for truth, given in keyed])
    mirex = np.array([mirex_score(truth, given) for truth, given in keyed])
    return Marks(exact, mirex, np.array([float(given is None) for given in keyless]))


def row(value: str, marks: Marks, present: Marks) -> str:
    """Return a row of a Markdown table; the difference of the MIREX scores has its standard error."""
    differences = 100 * (marks.mirex - present.mirex)
    error = differences.std() / math.sqrt(len(differences))
    shares = " | ".join(f"{100 * values.mean():.1f} %" for values in (marks.exact, marks.mirex))
    return f"| {value} | {shares} | {differences.mean():+.1f} ± {error:.1f} | {100 * marks.is_null.mean():.1f} % |"


def print_tables(examined: Sequence[Examined], best: int) -> None:
    values = list(GRID.values())
    present = tuple(axis.index(value) for axis, value in zip(values, PRESENT, strict=True))
    marks = {place: marks_at(examined, place) for place in itertools.product(*(range(len(axis)) for axis in values))}
    heads = "exact key | MIREX score | difference | drums: key NULL |\n|---|---:|---:|---:|---:|"
    for axis, name in enumerate(GRID):
        print(f"\n| {name} | {heads}")
        for number, value in enumerate(values[axis]):
            place = (*present[:axis], number, *present[axis + 1 :])
            is_present = " (now)" if place == present else ""
            print(row(f"{value:g}{is_present}", marks[place], marks[present]))
    print(f"\n| the best together | {heads}")
    for place in sorted(marks, key=lambda place: -marks[place].mirex.mean())[:best]:
        print(
            row(", ".join(f"{axis[i]:g}" for axis, i in zip(values, place, strict=True)), marks[place], marks[present])
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="another random seed than the usual one (%(default)s)")
    parser.add_argument("--pieces", type=int, default=500, help="how many to make, a fifth without a key (%(default)s)")
    parser.add_argument("--best", type=int, default=5, help="how many combinations to list (%(default)s)")
    parser.add_argument("--workers", type=int, default=None, help="processes; default: one for each core")
    options = parser.parse_args(argv)
    tasks = [(options.seed, number) for number in range(options.pieces)]
    if options.workers == 1:
        print_tables(list(map(examine, tasks)), options.best)
        return 0
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        print_tables(list(pool.map(examine, tasks, chunksize=8)), options.best)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
