"""Code in a Dask worker: check it, run tasks, and embed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile

from stem_dataset import PROGRAM_FOLDER, __version__
from stem_dataset.clap.embed import batches, embed_windows, file_vectors
from stem_dataset.clap.engine import ClapModel, library_versions
from stem_dataset.clap.session import REFERENCE_TOLERANCE, load_clap
from stem_dataset.clap.vectors import blob_of, cosine_distance, refuse_broken
from stem_dataset.datatypes import FoundFile
from stem_dataset.errors import PrepareError, UnfitWorker, UsageError, with_remedy
from stem_dataset.files import size_and_mtime_ns
from stem_dataset.logs import log, printable
from stem_dataset.output_folders import token_of
from stem_dataset.workers.tasks import RunContext, TaskReport, Work
from stem_dataset.workers.worker import run_tasks, self_test

PROGRAM = "prepare_dataset_sql"


def import_distributed() -> Any:
    """Return Dask's module, with its log lines sent to the root logger.

    Raises `UsageError` if it is not installed.
    """
    try:
        import distributed
    except ImportError:
        text = "--scheduler needs Dask, which is not installed: pip install -r requirements-cluster.txt"
        raise UsageError(text) from None
    logger = logging.getLogger("distributed")
    logger.handlers.clear()
    logger.propagate = True
    return distributed


def program_files() -> list[Path]:
    """Return this program's files, in the same order on all machines."""
    modules = sorted((PROGRAM_FOLDER / "stem_dataset").rglob("*.py"), key=Path.as_posix)
    return [PROGRAM_FOLDER / f"{PROGRAM}.py", *modules]


@functools.cache
def program_versions() -> tuple[tuple[str, str], ...]:
    """Return the versions that must be the same on all machines.

    This program's own entry includes a hash of its source.
    """
    source = hashlib.sha256(b"".join(path.read_bytes() for path in program_files())).hexdigest()
    libraries = library_versions("soundfile", "av", "tinytag", "librosa", "soxr", "numpy")
    decoder = {"libsndfile": soundfile.__libsndfile_version__}
    return (("prepare_dataset_sql", f"{__version__} ({source[:12]})"), *{**libraries, **decoder}.items())


Versions = tuple[tuple[str, str], ...]


def run_on_cluster(
    work: Work, group: Sequence[FoundFile], run_context: RunContext, versions: Versions
) -> list[TaskReport]:
    """Do `work` to each file of `group` in a Dask worker.

    The worker also embeds the files if `run_context` says so. It checks itself first, because it may have joined or
    restarted during the run, and raises `UnfitWorker` if it finds a problem.
    """
    problem = worker_problem(run_context, versions)
    if problem is not None:
        raise UnfitWorker(import_distributed().get_worker().address, problem)
    reports = run_tasks(work, group, run_context)
    if run_context.weights is not None:
        embed_here(reports, run_context)
    return reports


def check_worker(run_context: RunContext, versions: Versions, witness: FoundFile) -> str | None:
    """Return why this Dask worker is unfit, or None.

    `witness` is one of the files to process, which the worker must see as the driver does.
    """
    with contextlib.suppress(OSError):
        if size_and_mtime_ns(os.stat(witness.path)) == (witness.size_bytes, witness.mtime_ns):
            return worker_problem(run_context, versions)
    return f"it sees another input at {printable(run_context.root)} than the driver: mount the same disk there"


@functools.lru_cache(maxsize=1)
def worker_problem(run_context: RunContext, versions: Versions) -> str | None:
    """Return why this Dask worker is unfit, or None; cached for the run."""
    import threadpoolctl

    distributed = import_distributed()
    log.setLevel(logging.DEBUG)
    threadpoolctl.threadpool_limits(1)
    threads = distributed.get_worker().state.nthreads
    # A process has one timer to end a hanging file, so it can work on one file at a time.
    if threads != 1:
        return f"it has {threads} threads: start it with --nthreads 1, and one for each core"
    ours = dict(program_versions())
    others = [
        f"{name} {ours[name]} where the driver has {version}" for name, version in versions if ours[name] != version
    ]
    if others:
        return f"it has {', '.join(others)}: install the same on both"
    for folder in filter(None, (run_context.stems, run_context.quarantine)):
        try:
            token_of(folder, run_context.run_id).stat()
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            return f"it cannot write to {printable(folder)}, or that is not the driver's: {with_remedy(error)}"
    return self_test(run_context) or _engine_problem(run_context)


@functools.lru_cache(maxsize=1)
def engine_here(run_context: RunContext) -> ClapModel:
    """Return this Dask worker's CLAP, which is loaded once per run."""
    assert run_context.weights is not None
    return load_clap(run_context.weights, run_context.config)


def _engine_problem(run_context: RunContext) -> str | None:
    """Return how this Dask worker's CLAP differs from the driver's, or None.

    A worker that does not embed has no such problem.
    """
    if run_context.weights is None or run_context.reference_vector is None:
        return None
    try:
        vector = blob_of(refuse_broken(engine_here(run_context).reference))
    except (PrepareError, RuntimeError, ImportError, AttributeError, MemoryError) as error:
        return f"CLAP cannot be loaded there: {type(error).__name__}: {error}"
    distance = cosine_distance(vector, run_context.reference_vector)
    tolerance = REFERENCE_TOLERANCE[run_context.config.precision]
    if distance <= tolerance:
        return None
    return f"its CLAP makes other vectors than the driver's: {distance:.1g} in cosine, at most {tolerance:g}"


def embed_here(reports: Sequence[TaskReport], run_context: RunContext) -> None:
    """Replace the windows in `reports` by one vector per file."""
    decoded = [report for report in reports if report.processed is not None]
    for batch in batches(
        (report.processed for report in decoded if report.processed), run_context.config.batch_windows
    ):
        windows = [window for processed in batch for window in processed.windows]
        vectors = embed_windows(engine_here(run_context).get_audio_embedding_from_data, windows)
        blobs = file_vectors(vectors, [len(processed.windows) for processed in batch])
        for report, vector in zip(decoded[: len(batch)], blobs, strict=True):
            assert report.processed is not None
            report.processed = dataclasses.replace(report.processed, windows=[], is_embedded=True, vector=vector)
        del decoded[: len(batch)]
