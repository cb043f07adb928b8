"""A Dask cluster of its own for a test: a real scheduler and real workers on the loopback, ended with it.

As a worker's `--preload`, this module gives the worker a fake CLAP and the faults that TEST_FAULTS asks for, as
driver.py does for the program, and of its own:

    {"blind": "/a/b"}       the worker sees nothing under that folder
    {"read_only": "/a/b"}   the worker can write nothing there
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
PATHS = [
    str(REPOSITORY),
    str(REPOSITORY / "tests" / "support"),
]  # where scheduler and workers find what is sent by its name
START_S = 60.0  # two take 3
ENDINGS = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "4s", "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
LOG_ALL = {"PYTHONUNBUFFERED": "1"}


@dataclass
class Worker:
    """A Dask worker process, or its nanny."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def address(self) -> str:
        text = wait_for(self.log_file, "Start worker at:")
        return text.split("Start worker at:")[1].split()[0]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it and all below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid)
            for process in [*family.children(recursive=True), family]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(10)


@dataclass
class Cluster:
    """A scheduler and its workers."""

    folder: Path
    scheduler: subprocess.Popen[bytes]
    address: str
    workers: list[Worker] = field(default_factory=list)

    def add(
        self, *flags: str, nanny: bool = False, preload: bool = True, faults: dict[str, Any] | None = None, **env: str
    ) -> Worker:
        """Start a worker, and wait until it is there."""
        worker = self.start(*flags, nanny=nanny, preload=preload, faults=faults, **env)
        wait_for(worker.log_file, "Registered to:")
        return worker

    def start(
        self,
        *flags: str,
        nanny: bool = False,
        preload: bool = True,
        faults: dict[str, Any] | None = None,
        through: Sequence[str] = (),
        **env: str,
    ) -> Worker:
        """Start a worker, `through` a command that runs another, such as `ip netns exec`."""
        log_file = self.folder / f"worker{len(self.workers)}.log"
        command = [
            *through,
            *dask("worker"),
            self.address,
            *([] if "--nthreads" in flags else ["--nthreads", "1"]),
            *flags,
        ]
        command += ["--no-dashboard", "--local-directory", str(self.folder), "--nanny" if nanny else "--no-nanny"]
        command += ["--preload", str(Path(__file__))] if preload else []
        process = started(command, log_file, TEST_FAULTS=json.dumps(faults or {}), **env)
        self.workers.append(Worker(process, log_file))
        return self.workers[-1]

    @contextlib.contextmanager
    def joined_by(self, *flags: str, **options: Any) -> Iterator[Worker]:
        """Add a worker that leaves again."""
        worker = self.add(*flags, **options)
        try:
            yield worker
        finally:
            worker.stop()


@contextlib.contextmanager
def cluster(
    folder: Path, workers: int = 0, host: str = "127.0.0.1", through: Sequence[str] = (), **options: Any
) -> Iterator[Cluster]:
    """Start a scheduler, and as many workers with `options`, as of `Cluster.add`."""
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / "scheduler.log"
    scheduler = started([*through, *dask("scheduler"), "--host", host, "--port", "0", "--no-dashboard"], log_file)
    made = None
    try:
        address = wait_for(log_file, "Scheduler at:").split("Scheduler at:")[1].split()[0]
        made = Cluster(folder, scheduler, address)
        for worker in [made.start(**options) for _ in range(workers)]:  # side by side: a start takes seconds
            wait_for(worker.log_file, "Registered to:")
        yield made
    finally:
        for worker in made.workers if made else []:
            worker.stop()
        scheduler.kill()
        scheduler.wait(10)


def dask(command: str) -> list[str]:
    return [sys.executable, "-m", "dask", command]


def started(command: list[str], log_file: Path, **env: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **ENDINGS, **LOG_ALL, "PYTHONPATH": os.pathsep.join(PATHS), **env}
    with open(log_file, "wb") as log:
        # Elsewhere: `python -m` puts the current folder, and this program's source with it, on the path.
        return subprocess.Popen(
            command, cwd=log_file.parent, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
        )


def wait_for(log_file: Path, text: str) -> str:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        if text in (content := log_file.read_text(encoding="utf-8", errors="replace")):
            return content
        time.sleep(0.05)
    raise AssertionError(f"{text!r} is not in {log_file} within a minute:\n{content}")


def dask_setup(worker: Any) -> None:
    """Let a worker that preloads this module do as driver.py does."""
    import driver
    from patching import replace_for_good

    replace_for_good("load_clap", driver.load_fake)
    if "blind" in driver.FAULTS:
        os.stat = refusing(os.stat, driver.FAULTS["blind"], errno.ENOENT)
    if "read_only" in driver.FAULTS:
        temporary = tempfile.TemporaryFile

        def refuse(*_: Any, dir: Path, **__: Any) -> Any:
            if str(dir) == driver.FAULTS["read_only"]:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))
            return temporary(dir=dir)

        tempfile.TemporaryFile = refuse  # type: ignore[assignment]


def refusing(call: Any, folder: str, number: int) -> Any:
    def refuse(path: Any, *rest: Any, **options: Any) -> Any:
        if str(path).startswith(folder):
            raise OSError(number, os.strerror(number), str(path))
        return call(path, *rest, **options)

    return refuse


def version_there() -> str:
    from patching import value_of

    return str(value_of("__version__"))
