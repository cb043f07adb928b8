"""Run tasks on a Dask cluster whose workers see the same paths."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from stem_dataset import PROGRAM_FOLDER
from stem_dataset.datatypes import FoundFile
from stem_dataset.drives import STAT_S
from stem_dataset.errors import RunStopped, Timeout, UnfitWorker, WorkerDied
from stem_dataset.logs import log, printable
from stem_dataset.output_folders import token_of
from stem_dataset.signals import TICK_S
from stem_dataset.workers.dask_worker import PROGRAM, check_worker, import_distributed, program_versions, run_on_cluster
from stem_dataset.workers.tasks import (
    Death,
    RunContext,
    TaskReport,
    Work,
    quarantined_by,
    quarantined_report,
    reports_of,
    time_limit_s,
)

# A worker that also embeds gets this many files at a time, since it makes its own batches and checks its engine in each
# of them.
FILES_PER_TASK = 40
# The limit for the scheduler to answer, and then for a first worker to be there.
CONNECT_S = 10.0
# After this time without any worker, the run stops.
WORKERLESS_S = 60.0
# The limit for a worker's check of itself, which may compile CLAP.
CHECK_S = 300.0


def _answer(check: Future[str | None]) -> str | None:
    if not check.done() or check.cancelled():
        return f"it did not answer within {CHECK_S:g} s, or is gone: its own log may say why"
    error = check.exception()
    if isinstance(error, RuntimeError):  # Dask's, about the task graph
        return f"{error} Does the scheduler find this program too, and is it the same version there?"
    return f"{type(error).__name__}: {error}" if error else check.result()


@dataclass(slots=True)
class Flight:
    """The files of one task; only workers that embed get several."""

    work: Work
    files: list[FoundFile]
    # When the scheduler got the task, on the monotonic clock.
    begun_s: float


def connect(scheduler: str) -> Future[Any]:
    """Start connecting to a Dask scheduler; the future's result is a client.

    Connecting may take `CONNECT_S`, so it is done in a thread, and the caller checks for Ctrl-C meanwhile. If the
    scheduler does not answer, the future raises `RunStopped`. Raises `UsageError` if Dask is not installed.
    """
    return ThreadPoolExecutor(1).submit(_new_client, import_distributed(), scheduler)


def _new_client(distributed: Any, scheduler: str) -> Any:
    try:
        return distributed.Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RunStopped(
            f"the Dask scheduler {scheduler} does not answer: {error}. No file was touched: is it running "
            "(`dask scheduler`), and is that its address?"
        ) from None


class DaskBackend:
    """Runs the files of a `Pool` on a Dask cluster.

    When a worker is lost, Dask gives its tasks to another worker, and after four deaths it blames these tasks. Some of
    them were only on the same worker as the guilty one, so the pool tries each file again alone.
    """

    def __init__(self, client: Any, scheduler: str, witness: FoundFile, run_context: RunContext) -> None:
        """`witness` is a file to process, which every worker must see."""
        self.client = client
        self.scheduler = scheduler
        self.witness = witness
        self.run_context = run_context
        self.distributed = import_distributed()
        # Otherwise Dask would take a second try of a file for the task that failed, and not run it.
        self.executor = client.get_executor(pure=False)
        self.files_per_task = FILES_PER_TASK if run_context.weights is not None else 1
        self.in_flight: dict[Future[list[TaskReport]], Flight] = {}
        self.workers = 1
        self.looked_s = -math.inf
        # When the cluster last had a worker.
        self.seen_s = time.monotonic()
        # The addresses of workers that were unfit.
        self.sent_away: set[str] = set()
        self.tokens = [
            token_of(folder, run_context.run_id) for folder in (run_context.stems, run_context.quarantine) if folder
        ]

    def self_test(self) -> Future[str | None]:
        """Start `check_worker` on every worker."""
        for token in self.tokens:
            token.touch()
        return ThreadPoolExecutor(1).submit(self._check_workers)

    def _check_workers(self) -> str | None:
        try:
            self.client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError:
            return f"{self.scheduler} has no workers: start some with `dask worker {self.scheduler} --nthreads 1`"
        # A plain eval: a worker without this program could not unpickle a function of ours.
        has_program = self.client.run(eval, f"__import__('importlib.util').util.find_spec({PROGRAM!r}) is not None")
        submit: Any = self.executor.submit  # Dask's takes `workers` and `allow_other_workers`
        checks: dict[str, Future[str | None]] = {
            address: submit(
                check_worker,
                self.run_context,
                program_versions(),
                self.witness,
                workers=[address],
                allow_other_workers=False,
            )
            for address in self._addresses()
            if has_program.get(address)
        }
        self._wait_for_checks(checks)
        path = printable(PROGRAM_FOLDER)
        missing = f"it does not find this program: start it with PYTHONPATH={path}, or where that is there"
        problems = {address: missing for address, has_it in has_program.items() if not has_it}
        problems |= {address: problem for address, check in checks.items() if (problem := _answer(check))}
        return "\n".join(f"Dask worker {address}: {problem}" for address, problem in sorted(problems.items())) or None

    def _wait_for_checks(self, checks: Mapping[str, Future[str | None]]) -> None:
        """Wait until every worker that is still there has answered, or for `CHECK_S`."""
        deadline_s = time.monotonic() + CHECK_S
        while time.monotonic() < deadline_s:
            present = self._addresses()
            pending = [check for address, check in checks.items() if address in present and not check.done()]
            if not pending:
                return
            wait(pending, STAT_S)

    def _addresses(self) -> list[str]:
        identity = self.client.sync(self.client.scheduler.identity, n_workers=-1, callback_timeout=CONNECT_S)
        return list(identity["workers"])

    def start(self, work: Work, files: Iterator[FoundFile]) -> int:
        """Submit up to two tasks per worker; return the number of files taken."""
        taken = 0
        while len(self.in_flight) < 2 * self.workers:
            group = list(itertools.islice(files, self.files_per_task))
            if not group:
                break
            self._submit(work, group)
            taken += len(group)
        return taken

    def _submit(self, work: Work, group: list[FoundFile]) -> None:
        future = self.executor.submit(run_on_cluster, work, group, self.run_context, program_versions())
        self.in_flight[future] = Flight(work, group, time.monotonic())

    def wait(self) -> list[TaskReport | Death]:
        """Wait up to `TICK_S`, and return the outcomes of files.

        Raises `RunStopped` if the scheduler is lost, or has had no workers for too long.
        """
        done = wait(self.in_flight, TICK_S, FIRST_COMPLETED).done
        if self.client.status != "running" or any(future.cancelled() for future in done):
            raise RunStopped(
                f"the Dask scheduler {self.scheduler} is lost. What was committed stays: start it, and run again"
            )
        if time.monotonic() - self.looked_s >= STAT_S:
            self._look_at_workers()
        return [outcome for future in done for outcome in self._outcomes(future, self.in_flight.pop(future))]

    def _outcomes(self, future: Future[list[TaskReport]], flight: Flight) -> Sequence[TaskReport | Death]:
        """Return the outcomes of a finished task.

        If its worker was unfit, the task is submitted again and there are no outcomes yet.
        """
        error = future.exception()
        if isinstance(error, UnfitWorker):
            self._send_away(*error.args)
            self._submit(flight.work, flight.files)
            return []
        if isinstance(error, self.distributed.KilledWorker):
            return [self._death(found, flight, deaths=error.allowed_failures + 1) for found in flight.files]
        return self._reports(future, flight.files)

    def _look_at_workers(self) -> None:
        """Count the workers, which limits the tasks in flight.

        Raises `RunStopped` if there have been none for `WORKERLESS_S`.
        """
        self.looked_s = time.monotonic()
        present = self.workers
        with contextlib.suppress(OSError, TimeoutError):  # `status` shows a lost scheduler
            present = len(self._addresses())
        # If `workers` became 0, `start` would take no more files, and the run would end without them.
        if present:
            self.workers, self.seen_s = present, self.looked_s
        elif self.looked_s - self.seen_s > WORKERLESS_S:
            raise RunStopped(
                f"{self.scheduler} has had no workers for {WORKERLESS_S:g} s. What was committed stays: start some by "
                f"`dask worker {self.scheduler} --nthreads 1`, and run again"
            )

    def _send_away(self, address: str, problem: str) -> None:
        """Retire an unfit worker, which fails quickly and would soon get all files."""
        if address not in self.sent_away:
            self.sent_away.add(address)
            log.warning("Dask worker %s: %s; it is not used", address, problem)
            with contextlib.suppress(OSError, TimeoutError):
                self.client.retire_workers([address], close_workers=True)

    def retry_alone(self, work: Work, found: FoundFile) -> None:
        """Submit one file; Dask itself replaces workers that died."""
        self._submit(work, [found])

    def _death(self, found: FoundFile, flight: Flight, deaths: int) -> Death:
        limit_s = time_limit_s(found, self.run_context)
        if time.monotonic() - flight.begun_s >= deaths * limit_s:
            return Death(found, Timeout(f"not done after {limit_s:.0f} s, {deaths} times alone"))
        return Death(found, WorkerDied(f"{deaths} Dask workers died when they had it alone"))

    def _reports(self, future: Future[list[TaskReport]], group: Sequence[FoundFile]) -> list[TaskReport]:
        """Return a worker's reports, corrected for files that were already quarantined.

        If a worker dies after quarantining a file, the next worker reports the file as missing.
        """
        reports = reports_of(future, group)
        lost = [report for report in reports if report.fault is not None and not os.path.lexists(report.found.path)]
        moved = quarantined_by(self.run_context) if lost else {}
        return [
            quarantined_report(report.found, moved[report.found.path])
            if report in lost and report.found.path in moved
            else report
            for report in reports
        ]

    def close(self) -> None:
        """Cancel the tasks in flight and disconnect; the cluster keeps running."""
        with contextlib.suppress(OSError, TimeoutError):
            self.executor.shutdown(wait=False)
            self.client.close(timeout=STAT_S)
        for token in self.tokens:
            token.unlink(missing_ok=True)
