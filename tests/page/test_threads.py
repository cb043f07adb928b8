"""Threads that do not keep the program from ending."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from stem_dataset.page.threads import in_thread
from workplace import REPOSITORY


def test_a_result_and_an_error_come_back() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def ask() -> None:
        assert await in_thread(threading.current_thread) is not threading.current_thread()
        with pytest.raises(ValueError, match="no"):
            await in_thread(fail)

    asyncio.run(ask())


def test_the_program_ends_while_a_thread_is_at_work() -> None:
    code = (
        "import asyncio, contextlib, time; from stem_dataset.page.threads import in_thread\n"
        "with contextlib.suppress(TimeoutError): asyncio.run(asyncio.wait_for(in_thread(time.sleep, 3600), 0.1))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
