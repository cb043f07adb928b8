"""Processes on this machine that may die, and the loop that gives them files and takes their reports."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import multiprocessing.connection
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from stem_dataset.datatypes import FoundFile, T
from stem_dataset.drives import DEAD_DRIVE_TEXT, answers
from stem_dataset.errors import MachineFault, PrepareError, RunStopped, Timeout, TooMuchMemory, WorkerDied
from stem_dataset.logs import log, printable
from stem_dataset.quarantine import finish_move
from stem_dataset.signals import TICK_S, signals_blocked
from stem_dataset.workers.tasks import (
    OUTSIDE_SIGNALS,
    Flight,
    Job,
    TaskReport,
    Work,
    as_fault,
    exit_text,
    quarantine_report,
    quarantined_by,
    quarantined_report,
    time_limit_s,
)
from stem_dataset.workers.worker import run_tasks, self_test, start_worker

BACKSTOP_S = 10.0  # a worker so much over its file's time, whose own timer did not end it, is killed
WORKER_START_S = 60.0  # it takes 2; as a rule less
KILL_S = 5.0  # after which a process that was killed and is still there waits in the kernel
FILES_A_POOL = 5_000  # then new processes: whatever a C library leaks in them is gone
WORKER_IMPORTS = [
    "soundfile",
    "tqdm",
    "annotated_types",
    "threadpoolctl",
    "soxr",
    "scipy.fft",
    "pyloudnorm",
    "librosa.filters",
]


class WorkerPool:
    """A ProcessPoolExecutor over `_process_file` in which a worker's death costs only the file that caused it.

    A death breaks the executor and every pending future. What is finished is kept, the rest is replayed one file at a
    time: the innocent pass, and the one that kills its worker again, alone, is to blame. So for a file that hangs, and
    for one that takes more memory than a worker may have.
    """

    files_a_group = 1
    spawns_workers = False  # each of them anew, where there is no fork server

    def __init__(
        self, workers: int, job: Job, log_file: Path, on_wait: Callable[[], None], before_replay: Callable[[], None]
    ) -> None:
        """`on_wait` is called at least every `TICK_S` and may raise to stop; `before_replay` before a file is replayed
        alone."""
        self.workers = workers
        self.job = job
        self.log_file = log_file
        self.on_wait = on_wait
        self.before_replay = before_replay
        self.work: Work  # set by `reports`
        self._open(workers)

    def _open(self, workers: int) -> None:
        self.executor = self._new_executor(workers)
        self.submitted = 0
        self.killed_for_time = False
        self.abandoned = False

    def _new_executor(self, workers: int) -> ProcessPoolExecutor:
        # Never fork: torch's threads in the parent would be cut off in the middle of whatever they hold. A forkserver
        # with numpy in it is safe on Linux alone (macOS's Accelerate does not survive a fork).
        method = "forkserver" if sys.platform == "linux" else "spawn"
        context = multiprocessing.get_context(method)
        self.spawns_workers = context.get_start_method() == "spawn"
        if not self.spawns_workers:  # imported once (1.5 s, most of it librosa's) while CLAP loads, for all workers
            context.set_forkserver_preload(WORKER_IMPORTS)
            with signals_blocked():  # for its workers too, which inherit the mask
                importlib.import_module("multiprocessing.forkserver").ensure_running()
        initargs = (str(self.log_file), self.job.worker_memory_bytes)
        return ProcessPoolExecutor(workers, context, start_worker, initargs)

    def self_test(self) -> Future[str | None]:
        """Start `self_test` in a worker."""
        return self._call_in_worker(self_test, self.job)

    def _call_in_worker(self, task: Callable[..., T], *arguments: Any) -> Future[T]:
        # `submit` starts a worker. The fork server's workers inherit its mask, so nothing is blocked for them here: the
        # first start waits until the fork server has imported everything, and a second Ctrl-C must be heard meanwhile.
        with signals_blocked() if self.spawns_workers else contextlib.nullcontext():
            return self.executor.submit(task, *arguments)

    def reports(self, work: Work, files: Iterator[FoundFile]) -> Iterator[TaskReport]:
        """Do `work` to each file, and yield one report a file, in the order in which they finish.

        No more than two groups of files a worker are in flight, so memory does not grow with the folder.
        """
        self.work = work
        in_flight: dict[Future[list[TaskReport]], Flight] = {}
        suspects: list[FoundFile] = []
        while True:
            if not suspects:
                self._submit(files, in_flight, suspects)
            if not in_flight and not suspects:
                return
            for future in self._wait(in_flight):
                group = in_flight.pop(future).files
                if self._is_suspect(future):
                    suspects += group
                else:
                    yield from self._reports_of(future, group)
            if suspects and not in_flight:  # a death settles all at once; beside a memory limit, what runs may finish
                yield from self._replay(suspects)
                suspects.clear()

    def _submit(
        self, files: Iterator[FoundFile], in_flight: dict[Future[list[TaskReport]], Flight], suspects: list[FoundFile]
    ) -> None:
        """Fill up `in_flight`; a group that finds the pool broken joins the suspects."""
        while len(in_flight) < 2 * self.workers:
            if self.submitted >= FILES_A_POOL:
                if in_flight:
                    return
                self._renew(self.workers)
            group = list(itertools.islice(files, self.files_a_group))
            if not group:
                return
            future = self._start(group)
            if future is None:
                suspects += group
                return
            in_flight[future] = Flight(group)

    def _start(self, group: list[FoundFile]) -> Future[list[TaskReport]] | None:
        """Give `group` to a worker; None if the pool is broken."""
        self.submitted += len(group)
        try:
            return self._call_in_worker(run_tasks, self.work, group, self.job)
        except (BrokenProcessPool, OSError):  # OSError: it broke just when `submit` was starting another process
            if not self.executor._broken:
                raise
            return None

    def _wait(self, in_flight: Mapping[Future[list[TaskReport]], Flight]) -> set[Future[list[TaskReport]]]:
        """Wait up to `TICK_S`, return what is done, and break a pool in which nothing will ever be."""
        done = wait(in_flight, TICK_S, FIRST_COMPLETED).done
        self.on_wait()
        now_s = time.monotonic()
        overdue = False
        for future, flight in itertools.islice(in_flight.items(), self.workers):  # first in, first out: they have begun
            flight.begun_s = now_s if flight.begun_s is None else flight.begun_s
            limit_s = sum(time_limit_s(found, self.job) for found in flight.files) + BACKSTOP_S
            overdue = overdue or (now_s - flight.begun_s > limit_s and not future.done())
        self.killed_for_time = self.killed_for_time or overdue
        # A worker that died while it sent its result (up to 8 MB, through a pipe of 64 kB) leaves the executor waiting
        # for the rest for ever, and the other workers for the dead one's lock.
        if overdue or (not done and self._ended_workers(0)):
            self._kill_workers()
        return done

    def _replay(self, suspects: Sequence[FoundFile]) -> Iterator[TaskReport]:
        """Run each suspect alone in a pool of one and yield its report, or the verdict on it if it does it again."""
        log.warning(
            "a worker process died, hung or took too much memory; the %d files in question are tried again one by one",
            len(suspects),
        )
        self._renew(1)
        moved = quarantined_by(self.job)
        for found in suspects:
            if (entry := moved.get(found.path)) is not None:  # quarantined, and its report was lost
                finish_move(entry)
                yield quarantined_report(found, entry)
            elif not answers(found.path):
                yield TaskReport(found, fault=as_fault(MachineFault(DEAD_DRIVE_TEXT), found))
            else:
                self.before_replay()  # each time: meanwhile a batch may have filled up
                yield self._replay_alone(found)
        self._renew(self.workers)

    def _replay_alone(self, found: FoundFile) -> TaskReport:
        while (future := self._start([found])) is None:  # the worker of the one before died after its work
            self._renew(1)
        begun_s = time.monotonic()
        in_flight = {future: Flight([found], begun_s)}
        worker = self._processes()[0]
        while not self._wait(in_flight):
            pass
        elapsed_s = time.monotonic() - begun_s
        if not self._is_suspect(future):
            return self._reports_of(future, [found])[0]
        if not _is_broken(future):
            report = self._quarantine(found, TooMuchMemory(self._memory_text(future.result()[0])))
        else:
            # The executor's thread reads the exit code; of two readers, one gets 255. What cannot be killed has none.
            self._kill_workers()
            self.executor.shutdown(wait=not self.abandoned)
            report = self._verdict(found, worker.exitcode, elapsed_s)
        self._renew(1)
        return report

    def _verdict(self, found: FoundFile, exit_code: int | None, elapsed_s: float) -> TaskReport:
        """Say what becomes of a file whose worker died while it was alone."""
        limit_s = time_limit_s(found, self.job)
        if self.abandoned or (elapsed_s >= limit_s and not answers(found.path)):
            return TaskReport(found, fault=as_fault(MachineFault(DEAD_DRIVE_TEXT), found))
        if self.killed_for_time or elapsed_s >= limit_s:
            return self._quarantine(found, Timeout(f"not done after {limit_s:.0f} s, twice"))
        if exit_code is not None and -exit_code in OUTSIDE_SIGNALS:
            text = f"its worker was ended by {exit_text(exit_code)}, which we did not send: out of memory, most likely"
            return TaskReport(found, fault=as_fault(MachineFault(text), found))
        return self._quarantine(found, WorkerDied(f"its worker died twice: {exit_text(exit_code)}"))

    def _memory_text(self, report: TaskReport) -> str:
        limit_mb = (self.job.worker_memory_bytes or 0) // 10**6
        return f"over worker_memory_mb = {limit_mb}, twice: {report.memory_error}"

    def _quarantine(self, found: FoundFile, error: Exception) -> TaskReport:
        """Quarantine `found` from here, in a thread: who reads from a drive that begins to hang may never come back."""
        report = ThreadPoolExecutor(1).submit(quarantine_report, found, error, self.job)
        deadline_s = time.monotonic() + time_limit_s(found, self.job)
        while not wait([report], TICK_S).done:
            self.on_wait()
            if time.monotonic() > deadline_s:
                return TaskReport(found, fault=as_fault(MachineFault(DEAD_DRIVE_TEXT), found))
        return report.result()

    def _kill_workers(self) -> None:
        processes = self._processes()
        for process in processes:
            process.kill()
        if self._ended_workers(KILL_S) < len(processes):
            self._abandon()
        results = self.executor._result_queue  # the pipe may hold half a result, and ours is its last writing end
        if results is not None:
            results._writer.close()  # type: ignore[attr-defined]

    def _ended_workers(self, within_s: float) -> int:
        """Return how many workers have ended, once all have or the time is over. Not by `is_alive`, which reads the
        exit code: of two readers, this and the executor's thread, one gets 255."""
        sentinels = [process.sentinel for process in self._processes()]
        deadline_s = time.monotonic() + within_s
        while True:
            ended = len(multiprocessing.connection.wait(sentinels, 0))
            if ended == len(sentinels) or time.monotonic() >= deadline_s:
                return ended
            time.sleep(0.01)

    def _abandon(self) -> None:
        """Leave a pool behind whose processes wait in the kernel for a dead drive, where no signal reaches them: the
        executor would wait for them for ever. They end when the drive answers."""
        self.abandoned = True
        pending = self.executor._pending_work_items
        futures = [item.future for item in pending.values()]
        pending.clear()
        for future in futures:
            future.set_exception(BrokenProcessPool("its process cannot be killed"))

    def _renew(self, workers: int) -> None:
        """Go on with new processes, once one has shown that they start and decode: else every file would be blamed for
        a full or vanished disk, or for a program that is being replaced."""
        self.close()
        self._open(workers)
        tested = self.self_test()
        deadline_s = time.monotonic() + WORKER_START_S
        while not wait([tested], TICK_S).done and time.monotonic() < deadline_s:
            self.on_wait()
        problem = tested.exception() or tested.result() if tested.done() else f"not ready after {WORKER_START_S:g} s"
        if problem:
            raise RunStopped(
                f"no new worker process can do its work ({problem}), so no file is blamed and nothing more was moved: "
                f"see {printable(self.log_file)}, mend that, and run again"
            )

    def _processes(self) -> list[Any]:
        # No public way tells which processes a ProcessPoolExecutor has, and BrokenProcessPool carries no exit code.
        return list((self.executor._processes or {}).values())

    def close(self) -> None:
        """End all workers now, whatever they do: to be killed at any moment is what `_process_file` is made for."""
        if not self.abandoned:
            self._kill_workers()  # also one that `submit` started while the pool broke, which nobody else knows of
        self.executor.shutdown(wait=not self.abandoned, cancel_futures=True)

    def _is_suspect(self, future: Future[list[TaskReport]]) -> bool:
        """Whether a worker died, or one of its files took too much memory."""
        return _is_broken(future) or (
            future.exception() is None and any(report.memory_error is not None for report in future.result())
        )

    def _reports_of(self, future: Future[list[TaskReport]], group: Sequence[FoundFile]) -> list[TaskReport]:
        """Return what a worker reported; an error on the way (no memory to pickle it, no thread for the timer) is no
        verdict on a file. Raises `RunStopped` where the worker's CLAP is broken."""
        try:
            return future.result()
        except PrepareError:
            raise
        except Exception as error:
            return [TaskReport(found, fault=as_fault(error, found)) for found in group]


def _is_broken(future: Future[Any]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)
