"""The driver's intake from a Dask cluster, for bench_scale.py: workers whose work is a sleep, so that a machine with
few cores shows the protocol's limit and not its own. A module of its own: the workers import what they are to do."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench_run import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "support"))
sys.path.insert(0, str(REPOSITORY))

import dask_cluster
from stem_dataset.config import Config
from stem_dataset.datatypes import FoundFile, ProcessedFile, StemMetadata
from stem_dataset.workers.dask_pool import DaskBackend, connect
from stem_dataset.workers.pool import Pool
from stem_dataset.workers.tasks import RunContext, TaskReport

WORK_S = 0.02
RESULT_MB = (0.2, 1.9)


def sleep_and_answer(found: FoundFile, run_context: RunContext, report: TaskReport) -> ProcessedFile:
    """Take as long as a file of a second, and return windows of `found.size_bytes` in all."""
    time.sleep(WORK_S)
    stem = StemMetadata("", found.path, None, "", "", 1, 1, 1.0, 48_000, 1, None, None, "kick", "[]", "{}", 1)
    return ProcessedFile(found, stem, [np.ones(found.size_bytes // 2, np.int16)])


def bench_intake(folder: Path, options: argparse.Namespace) -> None:
    """Print results a second through `Pool.reports` with 1, 2, 4 and 8 workers, for two sizes of a result."""
    print(f"workers that sleep {WORK_S * 1000:g} ms, {options.results} results each; results a second")
    print(f"{'workers':>7}  {'they could':>10}  " + "  ".join(f"{size:>5} MB" for size in RESULT_MB), flush=True)
    dask_cluster.PATHS.append(str(REPOSITORY / "benchmarks"))
    with dask_cluster.cluster(folder / "dask") as made:
        for count in (1, 2, 4, 8):
            while len(made.workers) < count:
                made.add(preload=False)
            rates = [rate(folder, made.address, int(size * 1e6), options.results) for size in RESULT_MB]
            print(f"{count:7}  {count / WORK_S:10.0f}  " + "  ".join(f"{value:8.0f}" for value in rates), flush=True)


def rate(folder: Path, address: str, size_bytes: int, results: int) -> float:
    """Return results a second, from the first to the last."""
    witness = folder / "witness.wav"
    witness.write_bytes(b"a file that all see")
    status = witness.stat()
    found = FoundFile(str(witness), status.st_size, status.st_mtime_ns)
    (folder / "quarantine").mkdir(exist_ok=True)
    run_context = RunContext(
        str(folder), None, folder / "quarantine", None, Config(scheduler=address), f"{time.time()}"
    )
    backend = DaskBackend(connect(address).result(), address, found, run_context)
    pool = Pool(backend, run_context)
    with contextlib.closing(pool):
        problem = pool.self_test().result()
        if problem:
            raise SystemExit(problem)
        backend._look_at_workers()
        work = sys.modules["bench_intake"].sleep_and_answer  # by the name that a worker finds it under
        begun_s, count = 0.0, 0
        for report in pool.reports(work, files(found, size_bytes, results)):
            if report is None:
                continue
            assert report.processed is not None, report.fault
            count += 1
            begun_s = begun_s or time.monotonic()
        return (count - 1) / (time.monotonic() - begun_s)


def files(found: FoundFile, size_bytes: int, count: int) -> Iterator[FoundFile]:
    for number in range(count):
        yield dataclasses.replace(found, path=f"/{number}", size_bytes=size_bytes)
