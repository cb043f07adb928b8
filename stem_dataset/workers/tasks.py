"""What a worker is given and what it reports, and whose fault a failure is."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from stem_dataset.clap.checkpoints import Weights
from stem_dataset.config import Config
from stem_dataset.datatypes import FoundFile, ProcessedFile, QuarantineEntry
from stem_dataset.errors import (
    PROGRAM_ERRORS,
    REPORT_TEXT,
    BrokenFile,
    MachineFault,
    PrepareError,
    ProgramFault,
    kind_of,
    text_of_error,
)
from stem_dataset.logs import log, printable
from stem_dataset.quarantine import log_quarantined, quarantine_file, read_entry

# Signals no decoder raises: something outside, such as the OOM killer, ended the process.
OUTSIDE_SIGNALS = {int(getattr(signal, f"SIG{name}", 0)) for name in ("KILL", "TERM", "HUP", "INT", "QUIT")} - {0}


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to know beside the file."""

    root: str
    stems: Path | None
    quarantine: Path
    worker_memory_bytes: int | None  # None: no limit
    config: Config = field(hash=False)
    run_id: str
    weights: Weights | None = None  # of the CLAP that the worker embeds with; None: it does not
    reference_vector: bytes | None = None  # the driver's, which the worker's must agree with


@dataclass(slots=True)
class TaskReport:
    """What came of one file in a worker: a `ProcessedFile`, a hash, a fault, too much memory, or a quarantined file."""

    found: FoundFile
    processed: ProcessedFile | None = None
    sha256: str | None = None  # where that was all that was asked for
    fault: MachineFault | None = None
    quarantined: QuarantineEntry | None = None
    memory_error: str | None = None  # it hit the worker's limit, and is to be tried again alone
    log_records: list[logging.LogRecord] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Death:
    """A file whose worker died, hung or took too much memory.

    `error` is what the file is quarantined for if its second worker dies too, or the fault of the machine that it
    fails for.
    """

    found: FoundFile
    error: BrokenFile | MachineFault


# What is done to a file in a worker.
Work = Callable[[FoundFile, Job, TaskReport], ProcessedFile | str | None]


def as_fault(error: Exception, found: FoundFile) -> MachineFault:
    """Log an error that is not the file's, and return it in a form that survives pickling."""
    text = text_of_error(error)
    if isinstance(error, (ProgramFault, *PROGRAM_ERRORS)):
        text += f"; {REPORT_TEXT}"
    log.error("%s: failed, left where it is: %s", printable(found.path), printable(text))
    log.debug("%s: traceback", printable(found.path), exc_info=error)
    return MachineFault(text, kind_of(error))


def reports_of(future: Future[list[TaskReport]], files: Sequence[FoundFile]) -> list[TaskReport]:
    """Return what a worker reported on `files`. An error on the way back, such as no memory to pickle the result, is
    no verdict on a file.

    Raises `RunStopped` where the worker's CLAP is broken.
    """
    try:
        return future.result()
    except PrepareError:
        raise
    except Exception as error:
        return [TaskReport(found, fault=as_fault(error, found)) for found in files]


def time_limit_s(found: FoundFile, job: Job) -> float:
    """Return how long one file may take: the configured limit and a second a megabyte."""
    return job.config.file_timeout_s + found.size_bytes / 1e6


def quarantined_by(job: Job) -> dict[str, QuarantineEntry]:
    """Return what this run has moved to quarantine, by original file."""
    entries = filter(None, map(read_entry, job.quarantine.glob("ERROR_*.json")))
    return {e.original_file: e for e in entries if e.run_id == job.run_id and os.path.lexists(e.path)}


def quarantine_report(found: FoundFile, error: Exception, job: Job) -> TaskReport:
    """Quarantine `found` from the parent, and report it as a worker would."""
    try:
        entry = quarantine_file(found, error, job.quarantine, job.run_id)
    except (OSError, MachineFault) as why:
        return TaskReport(found, fault=as_fault(why, found))
    return quarantined_report(found, entry)


def quarantined_report(found: FoundFile, entry: QuarantineEntry) -> TaskReport:
    """Report a file that is in quarantine, as the worker would that moved it."""
    log_quarantined(entry)
    return TaskReport(found, quarantined=entry)


def exit_text(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        names = {int(number): number.name for number in signal.Signals}  # real-time ones have none
        return f"signal {-exit_code} ({names.get(-exit_code, 'no name')})"
    return f"exit code {exit_code}"
