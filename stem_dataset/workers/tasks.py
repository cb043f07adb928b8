"""Define a worker's tasks and reports, and attribute failures."""

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
class RunContext:
    """What a worker needs to know besides the file."""

    root: str
    stems: Path | None
    quarantine: Path
    worker_memory_bytes: int | None  # None means no limit
    config: Config = field(hash=False)
    run_id: str
    # The CLAP weights of a worker that embeds; None if it does not.
    weights: Weights | None = None
    # The driver's vector of the reference signal, which a worker that embeds must reproduce.
    reference_vector: bytes | None = None


@dataclass(slots=True)
class TaskReport:
    """The outcome of one file in a worker, and its log lines.

    Exactly one of the five outcome fields is set: a `ProcessedFile`, a hash, a fault, a quarantined file, or
    too much memory.
    """

    found: FoundFile
    processed: ProcessedFile | None = None
    sha256: str | None = None  # set if `hash_file` ran
    fault: MachineFault | None = None
    quarantined: QuarantineEntry | None = None
    # The worker reached its memory limit, so the file will be tried again alone.
    memory_error: str | None = None
    # How long the worker took, and how long it computed.
    seconds: float = field(default=0.0, compare=False)
    cpu_s: float = field(default=0.0, compare=False)
    log_records: list[logging.LogRecord] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Death:
    """A file whose worker died, hung or took too much memory.

    If this happens again, the file is quarantined with `error`, or fails if `error` is a fault of the machine.
    """

    found: FoundFile
    error: BrokenFile | MachineFault


# A function that a worker calls with each file.
Work = Callable[[FoundFile, RunContext, TaskReport], ProcessedFile | str | None]


def as_fault(error: Exception, found: FoundFile) -> MachineFault:
    """Log an error that is not the file's fault; return it picklable."""
    text = text_of_error(error)
    if isinstance(error, (ProgramFault, *PROGRAM_ERRORS)):
        text += f"; {REPORT_TEXT}"
    log.error("%s: failed, left where it is: %s", printable(found.path), printable(text))
    log.debug("%s: traceback", printable(found.path), exc_info=error)
    return MachineFault(text, kind_of(error))


def reports_of(future: Future[list[TaskReport]], files: Sequence[FoundFile]) -> list[TaskReport]:
    """Return a worker's reports on `files`.

    If the result could not be sent back, for example for lack of memory to pickle it, no file is to blame, and the
    reports are faults. Raises `RunStopped` if the worker's CLAP is broken.
    """
    try:
        return future.result()
    except PrepareError:
        raise
    except Exception as error:
        return [TaskReport(found, fault=as_fault(error, found)) for found in files]


def time_limit_s(found: FoundFile, run_context: RunContext) -> float:
    """Return a file's time limit: the configured one plus 1 s per MB."""
    return run_context.config.file_timeout_s + found.size_bytes / 1e6


def quarantined_by(run_context: RunContext) -> dict[str, QuarantineEntry]:
    """Return this run's quarantine entries, by original file."""
    entries = filter(None, map(read_entry, run_context.quarantine.glob("ERROR_*.json")))
    return {e.original_file: e for e in entries if e.run_id == run_context.run_id and os.path.lexists(e.path)}


def quarantine_report(found: FoundFile, error: Exception, run_context: RunContext) -> TaskReport:
    """Quarantine `found` in the parent process, and report it as a worker would."""
    try:
        entry = quarantine_file(found, error, run_context.quarantine, run_context.run_id)
    except (OSError, MachineFault) as why:
        return TaskReport(found, fault=as_fault(why, found))
    return quarantined_report(found, entry)


def quarantined_report(found: FoundFile, entry: QuarantineEntry) -> TaskReport:
    """Log a quarantined file, and report it as its worker would."""
    log_quarantined(entry)
    return TaskReport(found, quarantined=entry)


def exit_text(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        names = {int(number): number.name for number in signal.Signals}  # real-time signals have no names
        return f"signal {-exit_code} ({names.get(-exit_code, 'no name')})"
    return f"exit code {exit_code}"
