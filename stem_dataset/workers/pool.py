"""Give files to the workers of any backend, and yield their reports."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Protocol

from stem_dataset.datatypes import FoundFile
from stem_dataset.drives import DEAD_DRIVE_TEXT, answers, start_call
from stem_dataset.errors import BrokenFile, MachineFault, Timeout
from stem_dataset.logs import log
from stem_dataset.quarantine import finish_move
from stem_dataset.signals import TICK_S
from stem_dataset.workers.tasks import (
    Death,
    RunContext,
    TaskReport,
    Work,
    as_fault,
    quarantine_report,
    quarantined_by,
    quarantined_report,
    time_limit_s,
)


class Backend(Protocol):
    """Runs the work of a `Pool`, in local processes or on a Dask cluster.

    Each file taken by `start` or `retry_alone` comes back from `wait` exactly once. A worker's death is an outcome, not
    an exception. If no worker can continue, any of these methods raises `RunStopped`.
    """

    def self_test(self) -> Future[str | None]:
        """Start a self-test in the workers; its result is the problem, or None."""
        ...

    def start(self, work: Work, files: Iterator[FoundFile]) -> int:
        """Take files while there is room, and return their number.

        If no file is in flight, there is room for at least one.
        """
        ...

    def wait(self) -> Sequence[TaskReport | Death]:
        """Wait up to `TICK_S`, and return the outcomes of files in flight."""
        ...

    def retry_alone(self, work: Work, found: FoundFile) -> None:
        """Start one file, in a worker that no other file has harmed.

        No other file is in flight.
        """
        ...

    def close(self) -> None:
        """End all workers of this run now, whatever they are doing."""
        ...


class Pool:
    """Runs work in workers that may die; yields one report per file.

    The first death of a file's worker proves nothing: memory may have run out for another reason. So the file is tried
    again alone, with no other file in flight and nothing being embedded. If its worker dies again, the file is
    quarantined, or fails where the machine is to blame. The same holds for a file that hangs or takes too much memory.
    """

    def __init__(self, backend: Backend, run_context: RunContext) -> None:
        self.backend = backend
        self.run_context = run_context
        # True from just before a file is tried again alone until it is done. The caller meanwhile keeps memory free.
        self.is_retrying = False

    def self_test(self) -> Future[str | None]:
        """Start a self-test in the workers; its result is the problem, or None."""
        return self.backend.self_test()

    def close(self) -> None:
        """End all workers of this run now; their work may be killed at any time."""
        self.backend.close()

    def reports(self, work: Work, files: Iterator[FoundFile]) -> Iterator[TaskReport | None]:
        """Do `work` to each of `files`, and yield the reports as they come.

        While there is nothing to report, None is yielded at least every `TICK_S`, so that the caller can check for
        Ctrl-C.
        """
        in_flight = 0
        suspects: list[FoundFile] = []
        while True:
            if not suspects:
                in_flight += self.backend.start(work, files)
            if in_flight:
                outcomes = self.backend.wait()
                in_flight -= len(outcomes)
                suspects += [outcome.found for outcome in outcomes if isinstance(outcome, Death)]
                if not outcomes:
                    yield None
                yield from (outcome for outcome in outcomes if isinstance(outcome, TaskReport))
            elif suspects:
                yield from self._retry(work, suspects)
                suspects = []
            else:
                return

    def _retry(self, work: Work, suspects: Sequence[FoundFile]) -> Iterator[TaskReport | None]:
        """Try each suspect again alone if necessary, and yield its report."""
        log.warning(
            "a worker process died, hung or took too much memory; %d files are tried again, one at a time",
            len(suspects),
        )
        moved = quarantined_by(self.run_context)
        for found in suspects:
            if (entry := moved.get(found.path)) is not None:
                # The worker quarantined the file, but died before it could report that.
                finish_move(entry)
                yield quarantined_report(found, entry)
            elif not answers(found.path):
                yield TaskReport(found, fault=as_fault(MachineFault(DEAD_DRIVE_TEXT), found))
            else:
                yield from self._retry_alone(work, found)

    def _retry_alone(self, work: Work, found: FoundFile) -> Iterator[TaskReport | None]:
        self.is_retrying = True
        try:
            yield None
            self.backend.retry_alone(work, found)
            while not (outcomes := self.backend.wait()):
                yield None
        finally:
            self.is_retrying = False
        (outcome,) = outcomes
        if isinstance(outcome, TaskReport):
            yield outcome
        else:
            yield from self._settle_death(outcome)

    def _settle_death(self, death: Death) -> Iterator[TaskReport | None]:
        """Yield the report on a file whose worker died while it was alone."""
        error = death.error
        if isinstance(error, Timeout) and not answers(death.found.path):
            error = MachineFault(DEAD_DRIVE_TEXT)
        if isinstance(error, MachineFault):
            yield TaskReport(death.found, fault=as_fault(error, death.found))
        else:
            yield from self._quarantine(death.found, error)

    def _quarantine(self, found: FoundFile, error: BrokenFile) -> Iterator[TaskReport | None]:
        """Quarantine `found`; a drive that hangs may never answer."""
        moving = start_call(quarantine_report, found, error, self.run_context)
        deadline_s = time.monotonic() + time_limit_s(found, self.run_context)
        while not wait([moving], TICK_S).done:
            if time.monotonic() > deadline_s:
                yield TaskReport(found, fault=as_fault(MachineFault(DEAD_DRIVE_TEXT), found))
                return
            yield None
        yield moving.result()
