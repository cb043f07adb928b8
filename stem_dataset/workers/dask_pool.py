"""The workers of a Dask cluster, which see the same files under the same paths."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from stem_dataset import PROGRAM_FOLDER
from stem_dataset.datatypes import FoundFile
from stem_dataset.drives import STAT_S
from stem_dataset.errors import RunStopped, Timeout, UnfitWorker, WorkerDied
from stem_dataset.logs import log, printable
from stem_dataset.output_folders import token_of
from stem_dataset.signals import TICK_S
from stem_dataset.workers.dask_worker import PROGRAM, check_worker, import_distributed, program_versions, run_on_cluster
from stem_dataset.workers.pool import WorkerPool
from stem_dataset.workers.tasks import Flight, Job, TaskReport, quarantined_by, quarantined_report, time_limit_s

FILES_A_GROUP = 40  # go to a Dask worker that embeds what it decodes: batches of its own, with a proof in each
CONNECT_S = 10.0  # within which a Dask scheduler answers, and has a first worker
WORKERLESS_S = 60.0  # a cluster so long without workers will get none any more
CHECK_S = 300.0  # for a Dask worker's look at itself, which may compile CLAP


def _answer(check: Future[str | None]) -> str | None:
    if not check.done() or check.cancelled():
        return f"it did not answer within {CHECK_S:g} s, or is gone: its own log may say why"
    error = check.exception()
    if isinstance(error, RuntimeError):  # of Dask's, about the task graph
        return f"{error} Does the scheduler find this program too, and is it the same version there?"
    return f"{type(error).__name__}: {error}" if error else check.result()


class ClusterPool(WorkerPool):
    """`WorkerPool`'s loop over a Dask cluster, through the executor of its client.

    Dask gives the files of a worker that is lost to another, and after four deaths calls a file the killer; so that it
    takes no neighbour for one, such a file is tried again alone, as in the local pool.
    """

    def __init__(
        self,
        scheduler: str,
        witness: FoundFile,
        job: Job,
        log_file: Path,
        on_wait: Callable[[], None],
        before_replay: Callable[[], None],
    ) -> None:
        self.scheduler = scheduler
        self.witness = witness
        self.files_a_group = FILES_A_GROUP if job.weights is not None else 1
        self.distributed = import_distributed()
        self.sent_away: set[str] = set()  # workers, by address
        self.tokens = [token_of(folder, job.run_id) for folder in (job.stems, job.quarantine) if folder]
        try:
            self.client = self._connect(on_wait)
        except (OSError, ValueError) as error:
            raise RunStopped(
                f"the Dask scheduler {scheduler} does not answer: {error}. No file was touched: is it running "
                "(`dask scheduler`), and is that its address?"
            ) from None
        super().__init__(1, job, log_file, on_wait, before_replay)

    def _connect(self, on_wait: Callable[[], None]) -> Any:
        """Return a client. It is made in a thread: it may take `CONNECT_S`, in which Ctrl-C must be heard."""
        make_client = self.distributed.Client
        client = ThreadPoolExecutor(1).submit(make_client, self.scheduler, timeout=CONNECT_S, set_as_default=False)
        while not wait([client], TICK_S).done:
            on_wait()
        return client.result()

    def _open(self, workers: int) -> None:
        self.executor = self.client.get_executor(pure=False)  # pure: what failed would not be tried again
        self.submitted = 0
        self.looked_s = -math.inf
        self.seen_s = time.monotonic()  # when there was a worker

    def _renew(self, workers: int) -> None:
        """Nothing to do: Dask replaces its workers."""

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
        # Asked by Python's own words: of ours, a worker that has not this program could not even read the question.
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

    def _start(self, group: list[FoundFile]) -> Future[list[TaskReport]]:
        self.submitted = 0  # Dask's own settings say when a worker starts anew
        return self.executor.submit(run_on_cluster, self.work, group, self.job, program_versions())

    def _wait(self, in_flight: Mapping[Future[list[TaskReport]], Flight]) -> set[Future[list[TaskReport]]]:
        """Wait up to `TICK_S` and return what is done; raises `RunStopped` where the cluster is lost."""
        done = wait(in_flight, TICK_S, FIRST_COMPLETED).done
        self.on_wait()
        if self.client.status != "running" or any(future.cancelled() for future in done):
            raise RunStopped(
                f"the Dask scheduler {self.scheduler} is lost. What was committed stays: start it, and run again"
            )
        if time.monotonic() - self.looked_s >= STAT_S:
            self._look_at_workers()
        return done

    def _look_at_workers(self) -> None:
        """Count the workers, which bounds what is in flight; raises `RunStopped` where there are none for long."""
        self.looked_s = time.monotonic()
        present = self.workers
        with contextlib.suppress(OSError, TimeoutError):  # lost: `status` will tell
            present = len(self._addresses())
        if present:  # with 0 in flight the run would end, with its last files left and no word of it
            self.workers, self.seen_s = present, self.looked_s
        elif self.looked_s - self.seen_s > WORKERLESS_S:
            raise RunStopped(
                f"{self.scheduler} has had no workers for {WORKERLESS_S:g} s. What was committed stays: start some by "
                f"`dask worker {self.scheduler} --nthreads 1`, and run again"
            )

    def _is_suspect(self, future: Future[list[TaskReport]]) -> bool:
        return self._was_unfit(future) or isinstance(future.exception(), self.distributed.KilledWorker)

    def _was_unfit(self, future: Future[list[TaskReport]]) -> bool:
        """Whether the worker could not do its part. It is sent away: failing is quick, and it would get all files."""
        error = future.exception()
        if not isinstance(error, UnfitWorker):
            return False
        address, problem = error.args
        if address not in self.sent_away:
            self.sent_away.add(address)
            log.warning("Dask worker %s: %s; it is sent away", address, problem)
            with contextlib.suppress(OSError, TimeoutError):
                self.client.retire_workers([address], close_workers=True)
        return True

    def _replay_alone(self, found: FoundFile) -> TaskReport:
        future = None
        while future is None or self._was_unfit(future):
            begun_s = time.monotonic()
            future = self._start([found])
            while not self._wait({future: Flight([found])}):
                pass
        if not self._is_suspect(future):
            return self._reports_of(future, [found])[0]
        deaths = future.exception().allowed_failures + 1  # type: ignore[union-attr]  # KilledWorker
        limit_s = time_limit_s(found, self.job)
        if time.monotonic() - begun_s >= deaths * limit_s:
            return self._quarantine(found, Timeout(f"not done after {limit_s:.0f} s, {deaths} times alone"))
        return self._quarantine(found, WorkerDied(f"{deaths} Dask workers died when they had it alone"))

    def _reports_of(self, future: Future[list[TaskReport]], group: Sequence[FoundFile]) -> list[TaskReport]:
        """Return what a worker reported. A file that one moved to quarantine and then died is not found by the next."""
        reports = super()._reports_of(future, group)
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
