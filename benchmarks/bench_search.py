"""How long a search takes: python benchmarks/bench_search.py [--rows 10000 100000 1000000]

For each number of rows it makes a database of invented names and random unit vectors (4.4 GB a million, and 2.6 GB
beside it), and prints

    copy    how long the first search takes to copy what it needs, and the size of that copy
    shell   a warm text query by the command line, start-up included: seconds and peak memory
    loaded  queries in a process that has opened the library: the median and the worst, the median of the processor's
            time, and the process's peak memory

On a machine that does other things too, the processor's time says more than the seconds. The vector of the text is kept
already, as after its first use. All that is written is written to a folder of its own, which is removed (--folder
chooses where it lies). With --keep, the databases stay in --folder, and a later run with --keep uses them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import bench_scale
from bench_run import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from stem_dataset.clap.checkpoints import CHECKPOINTS
from stem_dataset.clap.engine import key_of_text
from stem_dataset.config import load_config
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import EMBEDDING_SIZE, Float32, StemRecord
from stem_dataset.search.library import Library
from stem_dataset.search.query import Filters, tempo_of
from stem_dataset.search.sidecar import open_sidecar

PUBLISHED = next(iter(CHECKPOINTS.values()))
MODEL = f"{PUBLISHED.name}@{PUBLISHED.sha256[:12]}/f32/10s-max8"
PROVENANCE = dataclasses.replace(bench_scale.PROVENANCE, embedding_model=MODEL, checkpoint_sha256=PUBLISHED.sha256)
TEXT = "dark punchy kick"
ROUNDS = 9


def random_vector(seed: int) -> Float32:
    vector = np.random.default_rng(seed).standard_normal(EMBEDDING_SIZE, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def make_database(folder: Path, count: int) -> Path:
    """Make a database of `count` rows, and keep the vector of the text in a model cache."""
    dice = random.Random(1)
    tags = sorted(load_config(REPOSITORY / "config.yaml", {}).tags)

    def changed(record: StemRecord) -> StemRecord:
        metadata = dataclasses.replace(record.metadata, tags=json.dumps(dice.sample(tags, 3)))
        return dataclasses.replace(record, metadata=metadata, embedding_model=MODEL)

    with contextlib.closing(Database(folder / "stems.db")) as database:
        for batch in bench_scale.rows(folder, count, 2_000):
            database.insert(list(map(changed, batch)), PROVENANCE)
    cache = folder / "cache" / PUBLISHED.sha256[:12]
    cache.mkdir(parents=True)
    np.savez(cache / "texts.npz", **{key_of_text(TEXT): random_vector(1)})
    return folder / "stems.db"


def bench(folder: Path, count: int) -> None:
    """Print what searches take in a database of `count` rows, which is made if it is not there."""
    database = folder / "stems.db"
    if not (folder / "cache").exists():
        make_database(folder, count)
    command = [sys.executable, str(REPOSITORY / "search_dataset_sql.py"), TEXT]
    command += ["--database", str(database), "--model-cache", str(folder / "cache")]
    shutil.rmtree(folder / "stems.db.search", ignore_errors=True)
    first_s, first_cpu_s, first_bytes = run(command)
    copied = sum(path.stat().st_size for path in (folder / "stems.db.search").iterdir())
    size = f"{copied / 1e6:,.0f} MB, peak {first_bytes / 1e9:.2f} GB"
    print(f"{count:10,} rows: copy {first_s:.1f} s, processor {first_cpu_s:.1f} s, {size}", flush=True)
    shells, cpu, peaks = zip(*(run(command) for _ in range(ROUNDS)), strict=True)
    times = f"median {statistics.median(shells):.2f} s, worst {max(shells):.2f} s"
    times += f", processor {statistics.median(cpu):.2f} s"
    print(f"{'':10} shell: {times}, peak {max(peaks) / 1e9:.2f} GB", flush=True)
    loaded = [sys.executable, __file__, "--loaded", str(database)]
    print(subprocess.run(loaded, check=True, stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)


def run(command: list[str]) -> tuple[float, float, int]:
    """Run a command; return its seconds, those of the processor, and its peak memory in bytes with mapped files."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def seconds_of(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a call, and those of the processor."""
    started, cpu_started = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started, time.process_time() - cpu_started


def bench_loaded(database: Path) -> None:
    """Print what queries take in this process."""
    with open_sidecar(database, lambda *_: None) as sidecar:
        library = Library(sidecar)
        everything = Filters()
        kicks = Filters(categories=("kick",))
        loops = Filters(tempi=(tempo_of("120-130"),), is_loop=True)
        for name, filters, text, has_vector in (
            ("sound", everything, None, True),
            ("text: sound and names", everything, TEXT, True),
            ("text: names alone", everything, TEXT, False),
            ("text, of one category", kicks, TEXT, True),
            ("text, loops at 120-130 bpm", loops, TEXT, True),
        ):
            times = []
            for seed in range(ROUNDS):
                vector = random_vector(seed) if has_vector else None
                times.append(seconds_of(lambda f=filters, t=text, v=vector: query(library, f, t, v)))  # type: ignore[misc]
            (first, _), *others = times
            seconds, cpu = zip(*others, strict=True)
            numbers = f"median {statistics.median(seconds) * 1e3:.0f} ms, worst {max(seconds) * 1e3:.0f} ms"
            numbers += f", processor {statistics.median(cpu) * 1e3:.0f} ms, the first {first * 1e3:.0f} ms"
            print(f"{'':10} loaded, {name}: {numbers}")
    print(f"{'':10} loaded: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2f} GB")


def query(library: Library, filters: Filters, text: str | None, vector: Float32 | None) -> None:
    hits = library.search(library.filtered(filters), text, vector, 20)
    assert len(hits) == 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--keep", action="store_true", help="keep the databases in --folder")
    parser.add_argument("--loaded", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.keep and options.folder is None:
        parser.error("--keep needs --folder")
    if options.loaded is not None:
        bench_loaded(options.loaded)
        return 0
    for count in options.rows:
        if options.keep:
            kept = options.folder / f"rows-{count}"
            kept.mkdir(parents=True, exist_ok=True)
            bench(kept, count)
            continue
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            bench(Path(folder), count)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
