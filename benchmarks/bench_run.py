"""The whole run on a folder, side by side with the way it was before: python benchmarks/bench_run.py DIR.

Before: stock laion_clap, one file at a time in one process: decode, five features, one embedding call each. Both use
the same checkpoint (--checkpoint, as for the program itself; HF_HUB_CACHE where the hub cannot be reached) and copies
of the same files. Prints files a second of each, the ratio, the peak memory of each with its child processes, and how
long the program's second run takes. Repeated --rounds times, the two in turn; medians are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

# The way it was before, as a script of its own so that its memory is its own. Broken files are skipped.
BEFORE = """
import json, sys, time
from pathlib import Path
import numpy as np, librosa, torch, laion_clap
from stem_dataset.discover import READABLE_SUFFIXES
clap = laion_clap.CLAP_Module(enable_fusion=False)
state = torch.load(sys.argv[2], map_location="cpu", weights_only=True)["state_dict"]
state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
state.pop("text_branch.embeddings.position_ids", None)
clap.model.load_state_dict(state)
started, done = time.perf_counter(), 0
for path in sorted(Path(sys.argv[1]).rglob("*")):
    if path.suffix.lower() not in READABLE_SUFFIXES:
        continue
    try:
        samples, rate = librosa.load(path, sr=48_000, mono=True)
    except Exception:
        continue
    if not len(samples):
        continue
    features = [
        np.mean(librosa.feature.spectral_centroid(y=samples, sr=rate)),
        np.mean(librosa.feature.zero_crossing_rate(samples)),
        np.mean(librosa.feature.rms(y=samples)),
        np.mean(librosa.feature.spectral_rolloff(y=samples, sr=rate)),
        np.mean(librosa.feature.spectral_bandwidth(y=samples, sr=rate)),
    ]
    clap.get_audio_embedding_from_data([samples])
    done += 1
print(json.dumps({"files": done, "loop_s": time.perf_counter() - started}))
"""


@dataclass
class Measured:
    """One process: wall-clock seconds, the most memory of it and its children together, and what it printed."""

    wall_s: float
    peak_bytes: int
    stdout: str


def tree_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants from Linux's /proc; what they share counts once (PSS)."""
    total = 0
    pids = [pid]
    while pids:
        current = Path("/proc") / str(pids.pop())
        try:
            rollup = (current / "smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
            for task in (current / "task").iterdir():
                pids += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, StopIteration):
            continue
    return total


def measure(command: list[str], folder: Path) -> Measured:
    """Run `command` in `folder` to its end; raises if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peaks = [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            peaks.append(tree_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    stdout, stderr = process.communicate()
    stop.set()
    watcher.join()
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)}\n{stderr}")
    return Measured(time.perf_counter() - started, max(peaks), stdout)


def copy_files(source: Path, target: Path, count: int | None) -> int:
    """Copy the first `count` audio files of `source` (all by default) with their folders; return how many."""
    from stem_dataset.discover import READABLE_SUFFIXES

    files = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in READABLE_SUFFIXES][:count]
    for path in files:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    return len(files)


def one_round(source: Path, count: int | None, checkpoint: Path) -> dict[str, float]:
    """Run before, ours, and ours again, on fresh copies; return the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "config.yaml").touch()  # the defaults, with all outputs in this folder
        copy_files(source, folder / "stems", count)
        environment_path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        os.environ["PYTHONPATH"] = environment_path
        before = measure([sys.executable, "-c", BEFORE, "stems", str(checkpoint)], folder)
        program = [sys.executable, str(REPOSITORY / "prepare_dataset_sql.py"), "--input", "stems", "-q"]
        program += ["--checkpoint", str(checkpoint), "--report", "report.json"]
        ours = measure(program, folder)
        report = json.loads((folder / "report.json").read_text())
        second = measure(program, folder)
        files = json.loads(before.stdout)["files"]
        return {
            "files (before)": files,
            "files (ours)": report["inserted"],
            "before, files/s": files / before.wall_s,
            "ours, files/s": report["inserted"] / ours.wall_s,
            "ratio ours/before": (report["inserted"] / ours.wall_s) / (files / before.wall_s),
            "before, peak GB": before.peak_bytes / 1e9,
            "ours, peak GB": ours.peak_bytes / 1e9,
            "ours, second run s": second.wall_s,
        }


def main(argv: list[str] | None = None) -> int:
    """Print the median of each figure over the rounds, with the smallest and largest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of audio; it is copied, not touched")
    parser.add_argument("--files", type=int, default=None, help="only the first N files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint file, for both")
    options = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    checkpoint = options.checkpoint.resolve()
    rounds = [one_round(options.folder, options.files, checkpoint) for _ in range(options.rounds)]
    print(f"{options.rounds} rounds on {os.cpu_count()} cores; median (smallest to largest)")
    show: Callable[[float], str] = "{:.3g}".format
    for name in rounds[0]:
        values = [figures[name] for figures in rounds]
        print(f"{name:20} {show(statistics.median(values)):>8}  ({show(min(values))} to {show(max(values))})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
