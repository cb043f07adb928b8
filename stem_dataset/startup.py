"""Give this process standard streams, UTF-8 and handlers of signals, whatever started it.

A module of its own, because the scripts call it before they import anything that takes long.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn


def prepare_process(interrupted: str) -> None:
    """Open missing standard streams, read file names as UTF-8, and end with 130 when a signal asks for it.

    If the names would be read as anything else, this process begins anew. `interrupted` is what it says when it ends.
    """
    open_standard_streams()
    read_names_as_utf8()
    end_at_signals(interrupted)


def end_at_signals(interrupted: str) -> None:
    """End this process at once with 130 at Ctrl-C, SIGTERM and SIGHUP, until other handlers take their place.

    The imports of a script take a quarter of a second. Without these handlers, Ctrl-C in that time prints a traceback.
    """

    def end(*_: object) -> NoReturn:
        try:
            os.write(2, f"error: {interrupted}\n".encode())
        finally:  # even if stderr is closed
            os._exit(130)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, end)


def open_standard_streams() -> None:
    """Connect standard streams that are closed to the null device.

    A daemon, `2>&-` or pythonw leaves them closed. Python then has None for them, and the operating system gives their
    numbers to the next files that are opened: what a C library prints would go into the database.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_null_device(descriptor)
        stream: Any = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            opened = open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            # A name that the stream's encoding lacks must not end the run.
            stream.reconfigure(errors="backslashreplace")


def _open_null_device(descriptor: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
    # Otherwise it would be closed again in the workers.
    os.set_inheritable(descriptor, True)


def read_names_as_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode, unless it reads file names as UTF-8 already.

    In another locale, such as C or ISO-8859-1, the same file would have another name than in the shell. It would be
    taken for a new one, and no word in its name would be found. Windows always has UTF-8.
    """
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8") and sys.executable:
        # The option prevails over the environment, and multiprocessing passes it on to the workers.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
