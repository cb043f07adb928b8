"""Work for a pool under test, which a worker process finds by its name."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from typing import Any

from stem_dataset.datatypes import FoundFile
from stem_dataset.workers.tasks import RunContext, TaskReport


def die_while_sending(found: FoundFile, run_context: RunContext, report: TaskReport) -> str:
    """Return a result of which half gets into the pipe, which holds 64 kB, before the worker is killed."""

    def send_half(self: Any, buffer: Any, write: Any = None) -> None:
        os.write(self.fileno(), bytes(buffer)[:60_000])
        os.kill(os.getpid(), signal.SIGKILL)

    Connection._send = send_half  # type: ignore[attr-defined]
    return "0" * 1_000_000


def stop(found: FoundFile, run_context: RunContext, report: TaskReport) -> str:
    """Stop the worker, its timer included."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return "00"


def answer(found: FoundFile, run_context: RunContext, report: TaskReport) -> str:
    return "00"
