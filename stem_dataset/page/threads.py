"""Threads for what takes long, which do not keep the program from ending.

A module of its own, because a program's end waits for the threads of asyncio and of Starlette, and loading CLAP takes
seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


async def in_thread(
    work: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Result:
    """Call `work` in a thread of its own, and return or raise what it does."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only if `work` returns it

    def run() -> None:
        result, error = None, None
        try:
            result = work(*arguments, **options)
        except BaseException as raised:
            error = raised
        # The page may have been closed meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="page", daemon=True).start()
    return await future
