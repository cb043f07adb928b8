"""Give this process standard streams and UTF-8, whatever started it.

A module of its own, because the script calls it before it imports anything that takes long.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def prepare_process() -> None:
    """Open missing standard streams, and read file names as UTF-8.

    If the names would be read as anything else, this process begins anew.
    """
    open_standard_streams()
    read_names_as_utf8()


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
