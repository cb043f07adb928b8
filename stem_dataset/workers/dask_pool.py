"""The workers of a Dask cluster, which see the same files under the same paths."""

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
    Job,
    TaskReport,
    Work,
    quarantined_by,
    quarantined_report,
    reports_of,
    time_limit_s,
)

# Files go by this many to a worker that embeds what it decodes: it makes batches of its own, and proves its engine in
# each.
FILES_PER_TASK = 40
# Within this time a Dask scheduler answers, and has a first worker.
CONNECT_S = 10.0
# A cluster without workers for this long will not get any.
WORKERLESS_S = 60.0
# A worker's check of itself may compile CLAP.
CHECK_S = 300.0


def _answer(check: Future[str | None]) -> str | None:
    if not check.done() or check.cancelled():
        return f"it did not answer within {CHECK_S:g} s, or is gone: its own log may say why"
    error = check.exception()
    if isinstance(error, RuntimeError):  # of Dask's, about the task graph
        return f"{error} Does the scheduler find this program too, and is it the same version there?"
    return f"{type(error).__name__}: {error}" if error else check.result()


@dataclass(slots=True)
class Flight:
    """Files that go to a Dask worker together: one, unless the worker embeds them too."""

    work: Work
    files: list[FoundFile]
    # On the monotonic clock, when the scheduler got them.
    begun_s: float


def connect(scheduler: str) -> Future[Any]:
    """Start to connect to a Dask scheduler; the result is a client, or `RunStopped` is raised.

    In a thread, since it may take `CONNECT_S`, in which the caller looks for Ctrl-C. Raises `UsageError` where Dask is
    not installed.
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
    """The workers of a `Pool` on a Dask cluster, through the executor of its client.

    Dask gives the files of a worker that is lost to another one, and after four deaths blames them. So that it takes no
    neighbour for the guilty file, the pool tries each of them again alone.
    """

    def __init__(self, client: Any, scheduler: str, witness: FoundFile, job: Job) -> None:
        """`witness` is one of the files that the workers will be given, which all of them must see."""
        self.client = client
        self.scheduler = scheduler
        self.witness = witness
        self.job = job
        self.distributed = import_distributed()
        # pure=False: Dask would not run again what failed.
        self.executor = client.get_executor(pure=False)
        self.files_per_task = FILES_PER_TASK if job.weights is not None else 1
        self.in_flight: dict[Future[list[TaskReport]], Flight] = {}
        self.workers = 1
        self.looked_s = -math.inf
        # When there was a worker.
        self.seen_s = time.monotonic()
        # Workers, by address.
        self.sent_away: set[str] = set()
        self.tokens = [token_of(folder, job.run_id) for folder in (job.stems, job.quarantine) if folder]

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
        submit: Any = self.executor.submit  # Dask's takes these two
        checks: dict[str, Future[str | None]] = {
            address: submit(
                check_worker, self.job, program_versions(), self.witness, workers=[address], allow_other_workers=False
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
        """Wait for the answers of the workers that are still there."""
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
        """Give the scheduler up to two tasks per worker, and return how many files were taken."""
        taken = 0
        while len(self.in_flight) < 2 * self.workers:
            group = list(itertools.islice(files, self.files_per_task))
            if not group:
                break
            self._submit(work, group)
            taken += len(group)
        return taken

    def _submit(self, work: Work, group: list[FoundFile]) -> None:
        future = self.executor.submit(run_on_cluster, work, group, self.job, program_versions())
        self.in_flight[future] = Flight(work, group, time.monotonic())

    def wait(self) -> list[TaskReport | Death]:
        """Wait up to `TICK_S`, and return what came of files; raises `RunStopped` where the cluster is lost."""
        done = wait(self.in_flight, TICK_S, FIRST_COMPLETED).done
        if self.client.status != "running" or any(future.cancelled() for future in done):
            raise RunStopped(
                f"the Dask scheduler {self.scheduler} is lost. What was committed stays: start it, and run again"
            )
        if time.monotonic() - self.looked_s >= STAT_S:
            self._look_at_workers()
        return [outcome for future in done for outcome in self._outcomes(future, self.in_flight.pop(future))]

    def _outcomes(self, future: Future[list[TaskReport]], flight: Flight) -> Sequence[TaskReport | Death]:
        """Return what came of a task that is done; nothing if its worker was unfit, and another one is to do it."""
        error = future.exception()
        if isinstance(error, UnfitWorker):
            self._send_away(*error.args)
            self._submit(flight.work, flight.files)
            return []
        if isinstance(error, self.distributed.KilledWorker):
            return [self._death(found, flight, deaths=error.allowed_failures + 1) for found in flight.files]
        return self._reports(future, flight.files)

    def _look_at_workers(self) -> None:
        """Count the workers, which bounds what is in flight; raises `RunStopped` where there are none for long."""
        self.looked_s = time.monotonic()
        present = self.workers
        with contextlib.suppress(OSError, TimeoutError):  # lost: `status` will show it
            present = len(self._addresses())
        if present:  # with 0 there would be no room for the last files, and the run would end without them
            self.workers, self.seen_s = present, self.looked_s
        elif self.looked_s - self.seen_s > WORKERLESS_S:
            raise RunStopped(
                f"{self.scheduler} has had no workers for {WORKERLESS_S:g} s. What was committed stays: start some by "
                f"`dask worker {self.scheduler} --nthreads 1`, and run again"
            )

    def _send_away(self, address: str, problem: str) -> None:
        """Retire a worker that cannot do its part: it fails quickly, and would soon get all files."""
        if address not in self.sent_away:
            self.sent_away.add(address)
            log.warning("Dask worker %s: %s; it is sent away", address, problem)
            with contextlib.suppress(OSError, TimeoutError):
                self.client.retire_workers([address], close_workers=True)

    def retry_alone(self, work: Work, found: FoundFile) -> None:
        """Give the scheduler one file; Dask replaces workers that died."""
        self._submit(work, [found])

    def _death(self, found: FoundFile, flight: Flight, deaths: int) -> Death:
        limit_s = time_limit_s(found, self.job)
        if time.monotonic() - flight.begun_s >= deaths * limit_s:
            return Death(found, Timeout(f"not done after {limit_s:.0f} s, {deaths} times alone"))
        return Death(found, WorkerDied(f"{deaths} Dask workers died when they had it alone"))

    def _reports(self, future: Future[list[TaskReport]], group: Sequence[FoundFile]) -> list[TaskReport]:
        """Return what a worker reported. A file that one worker quarantined before it died is missing for the next."""
        reports = reports_of(future, group)
        lost = [report for report in reports if report.fault is not None and not os.path.lexists(report.found.path)]
        moved = quarantined_by(self.job) if lost else {}
        return [
            quarantined_report(report.found, moved[report.found.path])
            if report in lost and report.found.path in moved
            else report
            for report in reports
        ]

    def close(self) -> None:
        """Cancel what is in flight, and leave the cluster as it was."""
        with contextlib.suppress(OSError, TimeoutError):
            self.executor.shutdown(wait=False)
            self.client.close(timeout=STAT_S)
        for token in self.tokens:
            token.unlink(missing_ok=True)
