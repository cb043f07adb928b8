"""Run tasks in processes on this machine, each with its own executor."""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
import multiprocessing
import multiprocessing.connection
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from stem_dataset.datatypes import FoundFile, T
from stem_dataset.drives import DEAD_DRIVE_TEXT
from stem_dataset.errors import BrokenFile, MachineFault, RunStopped, Timeout, TooMuchMemory, WorkerDied
from stem_dataset.logs import printable
from stem_dataset.signals import TICK_S, signals_blocked
from stem_dataset.workers.tasks import (
    OUTSIDE_SIGNALS,
    Death,
    RunContext,
    TaskReport,
    Work,
    exit_text,
    reports_of,
    time_limit_s,
)
from stem_dataset.workers.worker import run_tasks, self_test, start_worker

# One file runs and one is queued, so that a worker that needs 10 ms per file does not wait for the parent.
FILES_IN_FLIGHT = 2
# A process is replaced after this many files, which frees whatever C libraries have leaked.
FILES_PER_PROCESS = 2_500
# Grace after a file's time limit before the parent kills the worker, whose own timer should have ended it.
BACKSTOP_S = 10.0
# A process that still runs this long after SIGKILL is stuck in the kernel, waiting for a drive.
KILL_S = 5.0
# If a worker died this long ago and its file is still not done, it died while sending the result.
HALF_RESULT_S = 1.0
# The limit for a new worker to be ready, which takes about 2 s.
WORKER_START_S = 60.0
# The file descriptors of this process that each worker uses, and those left for the rest of the program.
DESCRIPTORS_PER_WORKER = 8
OTHER_DESCRIPTORS = 128
WORKER_IMPORTS = [
    "soundfile",
    "tqdm",
    "annotated_types",
    "threadpoolctl",
    "soxr",
    "tinytag",
    "scipy.fft",
    "pyloudnorm",
    "librosa.filters",
]


class RecordingContext:
    """A multiprocessing context that records the process and queue made with it.

    An executor makes its worker process and its result queue from the context, and has no public way to ask for them.
    An executor with one worker makes one of each.
    """

    def __init__(self) -> None:
        # A plain fork would copy locks that torch's threads hold in the parent, and nothing would release them. A fork
        # server with numpy in it is safe only on Linux, since macOS's Accelerate does not survive a fork.
        self.original: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        recording: Any = copy.copy(self.original)
        recording.Process, recording.SimpleQueue = self._make_process, self._make_queue
        self.recording = recording
        self.made_process: BaseProcess | None = None
        self.result_queue: Any = None

    @property
    def is_spawn(self) -> bool:
        """Whether each process starts as a new Python, without a fork server."""
        return bool(self.original.get_start_method() == "spawn")

    @property
    def process(self) -> BaseProcess | None:
        """The process, or None until it has started."""
        has_started = self.made_process is not None and self.made_process.pid is not None
        return self.made_process if has_started else None

    def _make_process(self, *args: Any, **options: Any) -> BaseProcess:
        self.made_process = self.original.Process(*args, **options)
        return self.made_process

    def _make_queue(self) -> Any:
        self.result_queue = self.original.SimpleQueue()
        return self.result_queue


@dataclass(slots=True)
class Flight:
    """A file that was given to a worker."""

    work: Work
    found: FoundFile
    # None until the worker has passed its self-test.
    future: Future[list[TaskReport]] | None = None
    # A time by which the worker had begun the file, on the monotonic clock.
    begun_s: float | None = None


class LocalWorker:
    """A process with its own executor, and the files given to it."""

    def __init__(self, run_context: RunContext, log_file: Path) -> None:
        self.run_context = run_context
        self.log_file = log_file
        self.context = RecordingContext()
        self.flights: deque[Flight] = deque()
        self.given = 0
        self.is_spent = False
        self.is_replacement = False
        # The self-test of a replacement, until it has passed.
        self.test: Future[str | None] | None = None
        self.begun_s = time.monotonic()
        self.killed_s: float | None = None
        self.ended_s: float | None = None
        self.executor = self._new_executor()

    def _new_executor(self) -> ProcessPoolExecutor:
        if not self.context.is_spawn:
            # The fork server imports these once for all workers, in 1.5 s (mostly for librosa), while CLAP loads.
            self.context.original.set_forkserver_preload(WORKER_IMPORTS)
            with signals_blocked():  # the workers inherit the mask
                importlib.import_module("multiprocessing.forkserver").ensure_running()
        initargs = (str(self.log_file), self.run_context.worker_memory_bytes)
        return ProcessPoolExecutor(1, self.context.recording, start_worker, initargs)

    def self_test(self) -> Future[str | None]:
        """Start `self_test` in the process."""
        return self._call(self_test, self.run_context)

    def _call(self, task: Callable[..., T], *arguments: Any) -> Future[T]:
        # `submit` starts the process. A worker of the fork server has inherited its mask, so nothing is blocked here
        # for it: the first start waits until the fork server has imported everything, and a second Ctrl-C must work
        # meanwhile.
        with signals_blocked() if self.context.is_spawn else contextlib.nullcontext():
            return self.executor.submit(task, *arguments)

    # -- files in, reports out ----------------------------------------------------------------------------------------

    def give(self, flight: Flight) -> None:
        """Give the worker another file."""
        self.given += 1
        self.is_spent = self.is_spent or self.given >= FILES_PER_PROCESS
        self.flights.append(flight)
        if self.test is None:
            self._submit(flight)

    def _submit(self, flight: Flight) -> None:
        # If the worker has died meanwhile, `is_lost` notices it, and the next worker gets the file.
        with contextlib.suppress(BrokenProcessPool):
            flight.future = self._call(run_tasks, flight.work, [flight.found], self.run_context)
            if len(self.flights) == 1:
                flight.begun_s = time.monotonic()

    def next_future(self) -> Future[Any] | None:
        """Return the future of the self-test, or else of the first file."""
        return self.test or (self.flights[0].future if self.flights else None)

    def has_passed_its_test(self) -> bool:
        """Return whether the worker can run files; raises `RunStopped` if its self-test failed.

        Without the test, files would be blamed when the disk is full or gone, or while this program is being replaced.
        """
        if self.test is None:
            return True
        if self.test.done():
            problem = self.test.exception() or self.test.result()
        elif time.monotonic() - self.begun_s > WORKER_START_S:
            problem = f"not ready after {WORKER_START_S:g} s"
        else:
            return False
        if problem:
            raise RunStopped(
                f"no new worker process can do its work ({problem}), so no file was quarantined for it: "
                f"see {printable(self.log_file)}, fix the cause, and run again"
            )
        self.test = None
        for flight in self.flights:
            self._submit(flight)
        return True

    def take_outcomes(self) -> list[TaskReport | Death]:
        """Remove the finished files from `flights`, and return their outcomes."""
        outcomes: list[TaskReport | Death] = []
        while self.flights:
            future = self.flights[0].future
            if future is None or not future.done() or _is_broken(future):
                break
            outcomes.append(self._outcome(self.flights.popleft().found, future))
        return outcomes

    def _outcome(self, found: FoundFile, future: Future[list[TaskReport]]) -> TaskReport | Death:
        (report,) = reports_of(future, [found])
        if report.memory_error is None:
            return report
        self.is_spent = True
        limit_mb = (self.run_context.worker_memory_bytes or 0) // 10**6
        return Death(found, TooMuchMemory(f"over worker_memory_mb = {limit_mb}, twice: {report.memory_error}"))

    # -- the end of a process -----------------------------------------------------------------------------------------

    def is_broken(self) -> bool:
        """Return whether the executor has noticed that its process died."""
        return bool(self.flights) and (self.flights[0].future is None or _is_broken(self.flights[0].future))

    def is_lost(self) -> bool:
        """Return whether no more results will come; kill a process that takes too long."""
        if not self.flights:
            return False
        head, is_broken, now_s = self.flights[0], self.is_broken(), time.monotonic()
        if head.begun_s is None:
            head.begun_s = now_s
        # If the executor broke, the process is about to end. Until then `LocalBackend.wait` returns at once; the short
        # wait here keeps it from spinning.
        if self._has_ended(within_s=0.05 if is_broken else 0):
            # A result of up to 8 MB goes through a pipe of 64 kB. If its sender died halfway, the executor's thread
            # waits for the rest for ever.
            self.ended_s = self.ended_s or now_s
            return is_broken or now_s - self.ended_s > HALF_RESULT_S
        if is_broken or now_s - head.begun_s > time_limit_s(head.found, self.run_context) + BACKSTOP_S:
            self.kill()
        return self._is_stuck()

    def _has_ended(self, within_s: float = 0) -> bool:
        """Return whether the process has ended, without reading its exit code.

        `is_alive` would read it. The executor's thread reads it too, and one of two readers gets 255.
        """
        process = self.context.process
        return process is not None and bool(multiprocessing.connection.wait([process.sentinel], within_s))

    def _is_stuck(self) -> bool:
        """Return whether a killed process still waits in the kernel for a drive."""
        return self.killed_s is not None and time.monotonic() - self.killed_s > KILL_S and not self._has_ended()

    def kill(self) -> None:
        """Kill the process, if it has started."""
        if self.killed_s is None and self.context.process is not None:
            self.context.process.kill()
            self.killed_s = time.monotonic()

    def wait_for_end(self, deadline_s: float) -> list[Future[Any]]:
        """Wait for the killed process to end.

        Returns the futures that the executor will now break, or none if the process still runs.
        """
        if not self._has_ended(max(deadline_s - time.monotonic(), 0)):
            return []
        return [flight.future for flight in self.flights if flight.future is not None]

    def take_death(self) -> Death | None:
        """Shut down a lost worker; return the death of the file it had begun.

        That file is removed from `flights`. Returns None if it had begun none.
        """
        is_stuck, exit_code = self._is_stuck(), self.shut_down()
        if self.flights[0].future is None:
            return None
        head = self.flights.popleft()
        limit_s = time_limit_s(head.found, self.run_context)
        # The time until the process ended, without the wait for half a result.
        elapsed_s = (self.ended_s or time.monotonic()) - (head.begun_s or math.inf)
        error: BrokenFile | MachineFault = WorkerDied(f"its worker died twice: {exit_text(exit_code)}")
        if is_stuck:
            error = MachineFault(DEAD_DRIVE_TEXT)
        elif elapsed_s >= limit_s:
            error = Timeout(f"not done after {limit_s:.0f} s, twice")
        elif exit_code is not None and -exit_code in OUTSIDE_SIGNALS:
            text = f"its worker was ended by {exit_text(exit_code)}, which we did not send: out of memory, most likely"
            error = MachineFault(text)
        return Death(head.found, error)

    def shut_down(self) -> int | None:
        """Shut the executor down, and return the exit code of the process.

        Returns None if the process still runs. Then the executor's thread is left behind, and `leave` does not wait for
        it.
        """
        process, queue = self.context.process, self.context.result_queue
        # Otherwise the queue's semaphores would be reported as leaked.
        self.context.result_queue = None
        is_idle = all(flight.future is None or flight.future.done() for flight in self.flights)
        has_ended = process is None or self._has_ended()
        self.executor.shutdown(wait=has_ended and is_idle, cancel_futures=True)
        if process is None or not has_ended:
            return None
        # Nothing else reads the exit code now: the executor's thread has ended, or waits for the rest of a result.
        exit_code = process.exitcode
        if not is_idle:
            queue.close()  # wakes and ends that thread
        return exit_code


class LocalBackend:
    """Runs the files of a `Pool` in processes on this machine.

    A worker's death is blamed on the file that it had begun, the first one in flight. The file behind it goes to the
    next process. A worker that has died, or has had its share of files, is replaced by one that must pass a self-test
    first.
    """

    def __init__(self, workers: int, run_context: RunContext, log_file: Path) -> None:
        self.most = workers
        self.run_context = run_context
        self.log_file = log_file
        _allow_descriptors(workers)
        self.looked_s = -math.inf
        # The other processes start when they are first needed.
        self.workers = [self._new_worker()]

    def _new_worker(self) -> LocalWorker:
        return LocalWorker(self.run_context, self.log_file)

    def self_test(self) -> Future[str | None]:
        """Start `self_test` in a worker."""
        return self.workers[0].self_test()

    def start(self, work: Work, files: Iterator[FoundFile]) -> int:
        """Give each worker up to `FILES_IN_FLIGHT` files, and return how many were taken."""
        taken = 0
        while (number := self._number_with_room()) is not None:
            found = next(files, None)
            if found is None:
                break
            self._ready_worker(number).give(Flight(work, found))
            taken += 1
        return taken

    def _number_with_room(self) -> int | None:
        """Return the number of the worker to get the next file.

        If all workers are busy and more are allowed, it is the number of a new one. Returns None if all are full.
        """
        loads = [len(worker.flights) for worker in self.workers]
        if min(loads) > 0 and len(self.workers) < self.most:
            return len(self.workers)
        # A spent worker is replaced only after it has finished its files.
        limits = [1 if worker.is_spent else FILES_IN_FLIGHT for worker in self.workers]
        numbers = [number for number, limit in enumerate(limits) if loads[number] < limit]
        return min(numbers, key=lambda number: (loads[number], self.workers[number].test is not None), default=None)

    def _ready_worker(self, number: int) -> LocalWorker:
        if number == len(self.workers):
            self.workers.append(self._new_worker())
        elif self.workers[number].is_spent:
            self.workers[number].kill()
            self.workers[number].shut_down()
            self._replace(number)
        return self.workers[number]

    def _replace(self, number: int) -> LocalWorker:
        """Replace a worker that is shut down; the new one must pass a self-test."""
        former = self.workers[number]
        worker = self.workers[number] = self._new_worker()
        worker.is_replacement = True
        worker.test = worker.self_test()
        for flight in former.flights:
            worker.give(Flight(flight.work, flight.found))
        return worker

    def wait(self) -> list[TaskReport | Death]:
        """Wait up to `TICK_S`, and return the outcomes of files in flight."""
        wait([future for worker in self.workers if (future := worker.next_future())], TICK_S, FIRST_COMPLETED)
        is_due = time.monotonic() - self.looked_s >= TICK_S
        if is_due:
            self.looked_s = time.monotonic()
        outcomes: list[TaskReport | Death] = []
        for number, worker in enumerate(self.workers):
            if worker.has_passed_its_test():
                outcomes += worker.take_outcomes()
                # Checking a process takes 20 us, which matters if there are hundreds.
                if (is_due or worker.is_broken()) and worker.is_lost():
                    death = worker.take_death()
                    outcomes += [death] if death else []
                    self._replace(number)
        return outcomes

    def retry_alone(self, work: Work, found: FoundFile) -> None:
        """Start one file in a replacement process that has had no file yet."""
        worker = next((worker for worker in self.workers if worker.is_replacement and not worker.given), None)
        if worker is None:
            self.workers[0].is_spent = True
            worker = self._ready_worker(0)
        worker.give(Flight(work, found))

    def close(self) -> None:
        """End all workers now, whatever they are doing."""
        for worker in self.workers:
            worker.kill()
        deadline_s = time.monotonic() + KILL_S
        futures = [future for worker in self.workers for future in worker.wait_for_end(deadline_s)]
        wait(futures, HALF_RESULT_S)
        for worker in self.workers:
            worker.shut_down()


def _is_broken(future: Future[Any]) -> bool:
    return future.done() and isinstance(future.exception(), BrokenProcessPool)


def _allow_descriptors(workers: int) -> None:
    """Raise the limit on open files as far as needed and allowed."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OTHER_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers
    if soft != resource.RLIM_INFINITY and soft < needed:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it reports
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard)
            )
