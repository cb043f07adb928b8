"""How long CLAP takes for one text: python benchmarks/bench_texts.py --checkpoint FILE

Each way runs in a fresh process, and three times:

    torch   a new text without openvino
    made    a new text that also makes the text tower
    tower   a new text by the kept tower
    kept    a text that was asked before

It prints wall-clock seconds, processor time and peak memory, start-up included. The model cache is a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_run import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from stem_dataset.clap.checkpoints import ModelCache, identify_weights
from stem_dataset.config import Config
from stem_dataset.search import query_vectors

WAYS = ("torch", "made", "tower", "kept")
ROUNDS = 3


def embed(way: str, text: str, checkpoint: str, folder: Path) -> None:
    """Embed one text in this process."""
    if way == "torch":
        vars(query_vectors)["has_openvino"] = lambda: False
    config = Config(checkpoint=checkpoint, model_cache=folder)
    weights = identify_weights(checkpoint, ModelCache(folder))
    query_vectors.QueryVectors(weights.embedding_model(8, "f32"), None, config).of_text(text)


def run(way: str, text: str, checkpoint: str, folder: Path) -> str:
    """Embed one text in a process of its own, and return what that took."""
    command = [sys.executable, __file__, "--checkpoint", checkpoint, "--one", way, text, str(folder)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    processor_s, peak_gb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9
    return f"{time.perf_counter() - started:6.2f} s, {processor_s:6.2f} s of processor time, peak {peak_gb:.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="FILE")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, text, folder = options.one
        embed(way, text, options.checkpoint, Path(folder))
        return
    with tempfile.TemporaryDirectory() as name:
        for way in WAYS:
            for number in range(ROUNDS):
                if way == "made":
                    for tower in Path(name).glob("*/text-*"):
                        shutil.rmtree(tower)
                text = "a dark punchy kick" if way == "kept" else f"{way} {number}"
                if way == "kept" and number == 0:
                    run("tower", text, options.checkpoint, Path(name))
                print(f"{way:6} {run(way, text, options.checkpoint, Path(name))}", flush=True)


if __name__ == "__main__":
    main()
