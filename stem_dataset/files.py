"""Open, hash and compare files, and make what was written durable."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import IO

from stem_dataset.datatypes import FoundFile
from stem_dataset.errors import MachineFault


def size_and_mtime_ns(status: os.stat_result) -> tuple[int, int]:
    """Return what tells that a file is unchanged. SQLite's integers end in the year 2262, times of files later."""
    return status.st_size, min(status.st_mtime_ns, 2**63 - 1)


def is_inside(path: str, folder: str) -> bool:
    """Whether the real path `path` is `folder` or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlive a power cut, where the file system can. Windows has no such call and needs none
    (NTFS journals names). Never raises: the rename is done, and a caller would take it for not done."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def open_regular(path: str) -> IO[bytes]:
    """Open a file for reading. What became a FIFO since it was found would block us for ever, a device never end."""

    def without_waiting(path: str, flags: int) -> int:
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has neither that nor FIFOs

    file = open(path, "rb", opener=without_waiting)  # noqa: SIM115  # the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise MachineFault("it is no regular file any more; run again when it is")


def sha256_of(file: IO[bytes]) -> str:
    """Return the hex sha256 of an open file from its start."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # IO[bytes] is what it reads


def sha256_of_path(path: str | Path) -> str:
    with open(path, "rb") as file:
        return sha256_of(file)


def check_unchanged(file: IO[bytes], found: FoundFile) -> None:
    """Raise if the file is still being written: its samples and the row's size would not belong together."""
    status = os.fstat(file.fileno())
    if size_and_mtime_ns(status) != (found.size_bytes, found.mtime_ns):
        raise MachineFault("it changed after it was found; run again when it is complete")
