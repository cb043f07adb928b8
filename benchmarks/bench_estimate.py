"""Whether the time left can be believed: python benchmarks/bench_estimate.py DIR --checkpoint FILE.

The program on --files files made of the audio in DIR: one-shots, loops and pieces of minutes, as WAV, FLAC, Ogg, MP3
and AIFF, in folders of one kind or (--shuffled) in folders of all kinds. Each estimate that it prints as JSON is
compared with the time that the rest really took. Prints a line for each tenth of the run, and the largest error from a
quarter of the run on, as a share of the true time left (where at least --least seconds were left).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from bench_run import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from stem_dataset.clap.checkpoints import ModelCache
from stem_dataset.discover import READABLE_SUFFIXES

# The program, but with a line every second.
PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import prepare_dataset_sql, stem_dataset.progress
stem_dataset.progress.LINE_EVERY_S = 1.0
prepare_dataset_sql.command()
"""
# kind: (share of the files, shortest and longest in seconds)
KINDS = {"one_shots": (0.65, 0.1, 2.0), "loops": (0.25, 2.0, 16.0), "pieces": (0.10, 20.0, 200.0)}
FORMATS = [("wav", "PCM_16"), ("wav", "PCM_24"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")]
FORMATS += [("aiff", "PCM_24")]
RATES_HZ = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


@dataclass(frozen=True)
class Line:
    """A line of progress: when it came, in seconds after the first one, and what it says."""

    at_s: float
    done: int
    left_s: float | None


def sources(folder: Path) -> list[tuple[npt.NDArray[np.float32], int]]:
    """Return the samples, (frames, channels), and the rate of all files that every format can hold."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in READABLE_SUFFIXES:
            try:
                found.append(soundfile.read(path, dtype="float32", always_2d=True))
            except soundfile.LibsndfileError:
                continue
    return [(samples, rate) for samples, rate in found if samples.shape[1] <= 2 and rate in RATES_HZ]


def fill(source: Path, target: Path, count: int, is_shuffled: bool, seed: int) -> None:
    """Write `count` files, no two alike; a piece is its source again and again."""
    dice = random.Random(seed)
    audio = sources(source)
    for number in range(count):
        kind = dice.choices(list(KINDS), [share for share, _, _ in KINDS.values()])[0]
        _, shortest_s, longest_s = KINDS[kind]
        samples, rate = dice.choice(audio)
        frames = int(rate * shortest_s * (longest_s / shortest_s) ** dice.random())
        start = dice.randrange(len(samples))
        piece = np.resize(np.roll(samples, -start, axis=0), (frames, samples.shape[1]))
        container, subtype = dice.choice(FORMATS)
        folder = target / (str(number % 7) if is_shuffled else kind)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:04}.{container}"
        with soundfile.SoundFile(path, "w", rate, piece.shape[1], subtype) as file:
            for begin in range(0, frames, rate):  # libsndfile crashes on minutes of Vorbis in one call
                file.write(piece[begin : begin + rate])


def run_program(folder: Path, options: argparse.Namespace) -> list[Line]:
    """Run the program in `folder`, and return its lines."""
    (folder / "config.yaml").touch()
    command = [sys.executable, "-c", PROGRAM, str(REPOSITORY), "--input", "stems", "--progress", "json", "-q"]
    command += ["--checkpoint", options.checkpoint, "--model-cache", str(options.model_cache)]
    lines = []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            content = json.loads(text)
            lines.append((time.monotonic(), content["done"], content["left_s"]))
    if process.returncode != 0:
        raise SystemExit(f"the program ended with {process.returncode}")
    return [Line(at_s - lines[0][0], done, left_s) for at_s, done, left_s in lines]


def compare(lines: list[Line], least_s: float) -> float:
    """Print what was said and what was true; return the largest error from a quarter of the run on."""
    end_s = lines[-1].at_s
    print(f"{len(lines)} lines, {lines[-1].done} files in {end_s:.1f} s")
    print("  at s   files   estimate  true left   error")
    worst, next_tenth = 0.0, 0
    for line in lines[:-1]:
        true_s = end_s - line.at_s
        error = None if line.left_s is None else line.left_s / true_s - 1
        if error is not None and line.at_s >= end_s / 4 and true_s >= least_s:
            worst = max(worst, abs(error))
        if line.at_s >= next_tenth * end_s / 10:
            next_tenth = int(10 * line.at_s / end_s) + 1
            said = "   unknown" if line.left_s is None else f"{line.left_s:8.1f} s"
            print(
                f"{line.at_s:6.1f} {line.done:7} {said} {true_s:8.1f} s " + ("" if error is None else f"{error:+7.0%}")
            )
    print(f"largest error from a quarter of the run on: {worst:.0%}")
    return worst


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of audio; it is read, not touched")
    parser.add_argument("--checkpoint", required=True, help="as for the program")
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--shuffled", action="store_true", help="every folder has files of all kinds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--least", type=float, default=5.0, help="seconds left below which an error does not count")
    parser.add_argument("--model-cache", type=Path, default=None)
    options = parser.parse_args(argv)
    options.model_cache = (options.model_cache or ModelCache(None).folder).resolve()
    if Path(options.checkpoint).is_file():
        options.checkpoint = str(Path(options.checkpoint).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        fill(options.folder, Path(scratch) / "stems", options.files, options.shuffled, options.seed)
        compare(run_program(Path(scratch), options), options.least)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
