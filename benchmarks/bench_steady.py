"""How much of a whole run is the model: python benchmarks/bench_steady.py DIR --checkpoint FILE.

The program on --files copies of the one-shots and loops in DIR (all up to 20 s, again and again, in numbered folders,
until there are enough), in batches of 32 windows and with a warm model cache, against the compiled tower alone on the
very windows that the run embedded (cut again from its WAVs), in turn, --rounds times. Steady state is from the first
call of the model to the last row, start-up from the program's start to the first rows; both are read from the log.
--memory instead runs it on 150 and on 1,500 files and prints the peak memory of the whole process tree of each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import soundfile

from bench_run import REPOSITORY, Measured, measure

sys.path.insert(0, str(REPOSITORY))

from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.audio.windowing import cut_windows
from stem_dataset.clap.checkpoints import ModelCache
from stem_dataset.config import Config
from stem_dataset.discover import READABLE_SUFFIXES
from stem_dataset.resources import usable_cores

# The tower alone, in a process of its own: prints the seconds of one call with all windows, after a warm-up.
ALONE = """
import json, sys, time
from pathlib import Path
started = time.perf_counter()
import prepare_dataset_sql as product
config = product.Config(checkpoint=sys.argv[1], model_cache=Path(sys.argv[2]), device="cpu", precision=sys.argv[3])
cache = product.ModelCache(config.model_cache)
model = product.load_clap(product.identify_weights(config.checkpoint, cache), config)
model.get_audio_embedding_from_data([product.waveform_of(product.reference_signal())])
start_s = time.perf_counter() - started
import numpy as np
windows = [product.waveform_of(window) for window in np.load(sys.argv[4], allow_pickle=True)]
model.get_audio_embedding_from_data(windows[:4])
started = time.perf_counter()
model.get_audio_embedding_from_data(windows)
print(json.dumps({"seconds": time.perf_counter() - started, "start_s": start_s}))
"""
LONGEST_S = 20
LOG_TIME = "%Y-%m-%d %H:%M:%S,%f"


def is_short(path: Path) -> bool:
    """Whether `path` is a one-shot or a loop."""
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:
        return False
    return bool(info.duration <= LONGEST_S)


def fill(source: Path, target: Path, count: int) -> None:
    """Put `count` audio files into `target`: the short ones of `source`, again and again."""
    files = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in READABLE_SUFFIXES]
    files = [path for path in files if is_short(path)]
    for number in range(count):
        path = files[number % len(files)]
        copy = target / str(number // len(files)) / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)


def run_program(folder: Path, options: argparse.Namespace) -> Measured:
    """Run the program in `folder` on its stems, from nothing but the model cache."""
    shutil.rmtree(folder / "processed_database", ignore_errors=True)
    (folder / "config.yaml").touch()
    command = [sys.executable, str(REPOSITORY / "prepare_dataset_sql.py"), "--input", "stems", "-q"]
    command += ["--checkpoint", options.checkpoint, "--model-cache", str(options.model_cache)]
    command += ["--batch-windows", "32", "--device", "cpu", "--precision", options.precision]
    return measure(command, folder)


def log_times(folder: Path) -> dict[str, float]:
    """Return when the steps of the run were, in seconds after its first log line."""
    lines = (folder / "processed_database" / "prepare_dataset.log").read_text(encoding="utf-8").splitlines()

    def at(line: str) -> datetime:
        return datetime.strptime(line[:23], LOG_TIME)

    begun = at(lines[0])
    calls = [line for line in lines if " embedding " in line]
    written = [line for line in lines if " rows written" in line]
    steps = {"first call": calls[0], "first rows": written[0], "last rows": written[-1]}
    return {name: (at(line) - begun).total_seconds() for name, line in steps.items()}


def keep_windows(folder: Path) -> int:
    """Cut the windows that the run embedded from its WAVs into windows.npy; return how many."""
    import numpy as np

    with contextlib.closing(sqlite3.connect(folder / "processed_database" / "stems.db")) as connection:
        wavs = [folder / path for (path,) in connection.execute("SELECT path FROM stems ORDER BY path")]
    windows = []
    for wav in wavs:
        with wav.open("rb") as file, StandardisedAudio(folder / "scratch") as audio:
            standardise(file, audio, 21_600.0)
            windows += cut_windows(audio, Config().max_windows)
    array = np.empty(len(windows), dtype=object)
    array[:] = windows
    np.save(folder / "windows.npy", array, allow_pickle=True)
    return len(windows)


def tower_alone(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-c", ALONE, options.checkpoint, str(options.model_cache), options.precision]
    output = subprocess.run([*command, "windows.npy"], cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
    answer: dict[str, float] = json.loads(output)
    return answer


def compare(folder: Path, options: argparse.Namespace) -> None:
    fill(options.folder, folder / "stems", options.files)
    run_program(folder, options)  # compiles the tower if it is not in the cache
    windows = keep_windows(folder)
    figures: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        measured, alone = run_program(folder, options), tower_alone(folder, options)
        times = log_times(folder)
        steady_s = times["last rows"] - times["first call"]
        for name, value in {
            "tower alone, ms a window": alone["seconds"] / windows * 1e3,
            "whole run, steady, ms a window": steady_s / windows * 1e3,
            "steady / tower alone": steady_s / alone["seconds"],
            "whole run with start-up, s": measured.wall_s,
            "all of it / tower alone": measured.wall_s / alone["seconds"],
            "run: start to first call, s": times["first call"],
            "run: start to first rows, s": times["first rows"],
            "engine: start to first vector, s": alone["start_s"],
            "run: peak of the tree, GB": measured.peak_bytes / 1e9,
        }.items():
            figures.setdefault(name, []).append(value)
    print(f"{options.files} files, {windows} windows, {usable_cores()} cores, {options.rounds} rounds; median")
    for name, values in figures.items():
        print(f"{name:34} {statistics.median(values):8.3g}  ({min(values):.3g} to {max(values):.3g})")


def compare_memory(folder: Path, options: argparse.Namespace) -> None:
    """Print the peak memory on 150 and on 1,500 files."""
    peaks = []
    for count in (150, 1_500):
        (folder / str(count)).mkdir()
        fill(options.folder, folder / str(count) / "stems", count)
        peaks.append(run_program(folder / str(count), options).peak_bytes)
        print(f"{count:6} files: peak of the process tree {peaks[-1] / 1e9:.2f} GB", flush=True)
    print(f"ratio {peaks[1] / peaks[0]:.3f}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of audio; it is copied, not touched")
    parser.add_argument("--checkpoint", required=True, help="as for the program")
    parser.add_argument("--files", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--model-cache", type=Path, default=None)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args(argv)
    options.model_cache = (options.model_cache or ModelCache(None).folder).resolve()
    if Path(options.checkpoint).is_file():
        options.checkpoint = str(Path(options.checkpoint).resolve())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as scratch:
        (compare_memory if options.memory else compare)(Path(scratch), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
