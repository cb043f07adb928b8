"""Worker processes on this machine, each in an executor of its own."""

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
    Job,
    TaskReport,
    Work,
    exit_text,
    reports_of,
    time_limit_s,
)
from stem_dataset.workers.worker import run_tasks, self_test, start_worker

# One file that runs and one that is queued: a worker with 10 ms per file does not wait for the parent.
FILES_IN_FLIGHT = 2
# Then a new process takes over, which frees whatever a C library has leaked.
FILES_PER_PROCESS = 2_500
# Grace after a file's time limit before the parent kills the worker, whose own timer should have ended it.
BACKSTOP_S = 10.0
# A process that still runs so long after SIGKILL is stuck in the kernel, waiting for a drive.
KILL_S = 5.0
# A worker that died this long ago, and whose file is still not done, died while it sent the result.
HALF_RESULT_S = 1.0
# A new worker needs about 2 s to be ready.
WORKER_START_S = 60.0
# A worker takes eight file descriptors of this process; the rest of the program gets this many.
DESCRIPTORS_PER_WORKER = 8
OTHER_DESCRIPTORS = 128
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


class RecordingContext:
    """A multiprocessing context that keeps the process and the result queue an executor makes with it.

    The executor has no public way to ask for them. One executor of one worker makes one of each.
    """

    def __init__(self) -> None:
        # Never fork: torch's threads in the parent would be cut off in the middle of whatever they hold. A forkserver
        # with numpy in it is safe on Linux alone, since macOS's Accelerate does not survive a fork.
        self.original: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        recording: Any = copy.copy(self.original)
        recording.Process, recording.SimpleQueue = self._make_process, self._make_queue
        self.recording = recording
        self.made_process: BaseProcess | None = None
        self.result_queue: Any = None

    @property
    def is_spawn(self) -> bool:
        """Whether each process starts as a new Python, without the help of a fork server."""
        return bool(self.original.get_start_method() == "spawn")

    @property
    def process(self) -> BaseProcess | None:
        """The process, once it has started."""
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
    """A file that a worker was given."""

    work: Work
    found: FoundFile
    # None until the worker has passed its self-test.
    future: Future[list[TaskReport]] | None = None
    # On the monotonic clock, when the worker surely had begun on it.
    begun_s: float | None = None


class LocalWorker:
    """One process of this machine in an executor of its own, and the files that it was given, in order."""

    def __init__(self, job: Job, log_file: Path) -> None:
        self.job = job
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
            # The fork server imports these once (1.5 s, most of it librosa's) for all workers, while CLAP loads.
            self.context.original.set_forkserver_preload(WORKER_IMPORTS)
            with signals_blocked():  # for its workers too, which inherit the mask
                importlib.import_module("multiprocessing.forkserver").ensure_running()
        initargs = (str(self.log_file), self.job.worker_memory_bytes)
        return ProcessPoolExecutor(1, self.context.recording, start_worker, initargs)

    def self_test(self) -> Future[str | None]:
        """Start `self_test` in the process."""
        return self._call(self_test, self.job)

    def _call(self, task: Callable[..., T], *arguments: Any) -> Future[T]:
        # `submit` starts the process. The fork server's workers inherit its mask, so nothing is blocked for them here:
        # the first start waits until the fork server has imported everything, and a second Ctrl-C must be heard
        # meanwhile.
        with signals_blocked() if self.context.is_spawn else contextlib.nullcontext():
            return self.executor.submit(task, *arguments)

    # -- files in, reports out ----------------------------------------------------------------------------------------

    def give(self, flight: Flight) -> None:
        """Add a file to those in flight."""
        self.given += 1
        self.is_spent = self.is_spent or self.given >= FILES_PER_PROCESS
        self.flights.append(flight)
        if self.test is None:
            self._submit(flight)

    def _submit(self, flight: Flight) -> None:
        # A worker may have died since: then `is_lost` says so, and the file, not begun, goes to the next.
        with contextlib.suppress(BrokenProcessPool):
            flight.future = self._call(run_tasks, flight.work, [flight.found], self.job)
            if len(self.flights) == 1:
                flight.begun_s = time.monotonic()

    def next_future(self) -> Future[Any] | None:
        """Return the future that is done first."""
        return self.test or (self.flights[0].future if self.flights else None)

    def has_passed_its_test(self) -> bool:
        """Whether this worker can be given files; raises `RunStopped` where its self-test fails.

        Otherwise every file would be blamed for a full or vanished disk, or for a program that is being replaced.
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
                f"no new worker process can do its work ({problem}), so no file is blamed and nothing more was moved: "
                f"see {printable(self.log_file)}, mend that, and run again"
            )
        self.test = None
        for flight in self.flights:
            self._submit(flight)
        return True

    def take_outcomes(self) -> list[TaskReport | Death]:
        """Take the files that are done out of `flights`."""
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
        limit_mb = (self.job.worker_memory_bytes or 0) // 10**6
        return Death(found, TooMuchMemory(f"over worker_memory_mb = {limit_mb}, twice: {report.memory_error}"))

    # -- the end of a process -----------------------------------------------------------------------------------------

    def is_broken(self) -> bool:
        """Whether the executor has noticed that its process died over the first of the files in flight, or before."""
        return bool(self.flights) and (self.flights[0].future is None or _is_broken(self.flights[0].future))

    def is_lost(self) -> bool:
        """Whether nothing more will come of the files in flight; kills a process that takes too long."""
        if not self.flights:
            return False
        head, is_broken, now_s = self.flights[0], self.is_broken(), time.monotonic()
        if head.begun_s is None:
            head.begun_s = now_s
        # It is about to end if the executor broke, and until then `LocalBackend.wait` would return at once.
        if self._has_ended(within_s=0.05 if is_broken else 0):
            # The executor's thread waits for ever for the rest of a result (up to 8 MB, through a pipe of 64 kB) whose
            # sender died.
            self.ended_s = self.ended_s or now_s
            return is_broken or now_s - self.ended_s > HALF_RESULT_S
        if is_broken or now_s - head.begun_s > time_limit_s(head.found, self.job) + BACKSTOP_S:
            self.kill()
        return self._is_stuck()

    def _has_ended(self, within_s: float = 0) -> bool:
        """Whether the process has ended. Not by `is_alive`, which reads the exit code: of two readers, this and the
        executor's thread, one gets 255."""
        process = self.context.process
        return process is not None and bool(multiprocessing.connection.wait([process.sentinel], within_s))

    def _is_stuck(self) -> bool:
        """Whether the process was killed and still runs: it waits in the kernel for a drive that hangs."""
        return self.killed_s is not None and time.monotonic() - self.killed_s > KILL_S and not self._has_ended()

    def kill(self) -> None:
        """Kill the process, if it has started."""
        if self.killed_s is None and self.context.process is not None:
            self.context.process.kill()
            self.killed_s = time.monotonic()

    def wait_for_end(self, deadline_s: float) -> list[Future[Any]]:
        """Wait until the process, which was killed, has ended; return the futures that the executor will break now."""
        if not self._has_ended(max(deadline_s - time.monotonic(), 0)):
            return []
        return [flight.future for flight in self.flights if flight.future is not None]

    def take_death(self) -> Death | None:
        """Shut down after the process is lost, and take the file that it had begun, if any, out of `flights`."""
        is_stuck, exit_code = self._is_stuck(), self.shut_down()
        if self.flights[0].future is None:
            return None
        head = self.flights.popleft()
        limit_s = time_limit_s(head.found, self.job)
        # Up to the death, without the grace for half a result.
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
        """Shut the executor down, and return the exit code of a process that has ended.

        What does not end is left behind: the executor's thread, where the process is stuck. `leave` does not wait for
        it.
        """
        process, queue = self.context.process, self.context.result_queue
        self.context.result_queue = None  # else its semaphores would be reported as leaked
        is_idle = all(flight.future is None or flight.future.done() for flight in self.flights)
        has_ended = process is None or self._has_ended()
        self.executor.shutdown(wait=has_ended and is_idle, cancel_futures=True)
        if process is None or not has_ended:
            return None
        # From here on nobody else reads it: the executor's thread has ended, or waits for the rest of a result.
        exit_code = process.exitcode
        if not is_idle:
            queue.close()  # wakes that thread up, which then ends
        return exit_code


class LocalBackend:
    """The workers of a `Pool` on this machine.

    A worker's death is that of the file it had begun, the first one in flight; the one behind it goes to the next
    process. A worker that dies or is spent is replaced by one that must pass a self-test first.
    """

    def __init__(self, workers: int, job: Job, log_file: Path) -> None:
        self.most = workers
        self.job = job
        self.log_file = log_file
        _allow_descriptors(workers)
        self.looked_s = -math.inf
        # Processes start when they are first needed.
        self.workers = [self._new_worker()]

    def _new_worker(self) -> LocalWorker:
        return LocalWorker(self.job, self.log_file)

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
        """Return the number of a worker with the fewest files, or of one that is yet to be made."""
        loads = [len(worker.flights) for worker in self.workers]
        if min(loads) > 0 and len(self.workers) < self.most:
            return len(self.workers)
        # A spent worker is replaced, but not before it has finished what it has.
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
        """Put a new worker, which has to pass a self-test first, in the place of one that is shut down."""
        former = self.workers[number]
        worker = self.workers[number] = self._new_worker()
        worker.is_replacement = True
        worker.test = worker.self_test()
        for flight in former.flights:
            worker.give(Flight(flight.work, flight.found))
        return worker

    def wait(self) -> list[TaskReport | Death]:
        """Wait up to `TICK_S`, and return what came of files in flight."""
        wait([future for worker in self.workers if (future := worker.next_future())], TICK_S, FIRST_COMPLETED)
        is_due = time.monotonic() - self.looked_s >= TICK_S
        if is_due:
            self.looked_s = time.monotonic()
        outcomes: list[TaskReport | Death] = []
        for number, worker in enumerate(self.workers):
            if worker.has_passed_its_test():
                outcomes += worker.take_outcomes()
                # To look at a process takes 20 us, which counts with hundreds of them.
                if (is_due or worker.is_broken()) and worker.is_lost():
                    death = worker.take_death()
                    outcomes += [death] if death else []
                    self._replace(number)
        return outcomes

    def retry_alone(self, work: Work, found: FoundFile) -> None:
        """Start on one file in a process that has replaced another and was given nothing yet."""
        worker = next((worker for worker in self.workers if worker.is_replacement and not worker.given), None)
        if worker is None:
            self.workers[0].is_spent = True
            worker = self._ready_worker(0)
        worker.give(Flight(work, found))

    def close(self) -> None:
        """End all workers now, whatever they do."""
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
    """Raise this process's limit of open files, as far as it may, where `workers` need more."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OTHER_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers
    if soft != resource.RLIM_INFINITY and soft < needed:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard)
            )
