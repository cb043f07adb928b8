"""Open, hash and compare files, write them whole, and find free names."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from stem_dataset.datatypes import FoundFile
from stem_dataset.errors import MachineFault


def size_and_mtime_ns(status: os.stat_result) -> tuple[int, int]:
    """Return the size and time by which a file counts as unchanged."""
    # The largest integer of SQLite is a time in the year 2262; a file may have a later one.
    return status.st_size, min(status.st_mtime_ns, 2**63 - 1)


def inode_of(status: os.stat_result) -> int | None:
    """Return a file's inode number, which a rename does not change; None if it has none."""
    # Some file systems use all 64 bits; an integer of SQLite has 63.
    return status.st_ino & (2**63 - 1) or None


def is_inside(path: str, folder: str) -> bool:
    """Whether the real path `path` is `folder` or is inside it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


# The length limit of file names on ext4, APFS and NTFS.
NAME_BYTES = 255


def numbered_names(stem: str, suffix: str = "", max_bytes: int = NAME_BYTES) -> Iterator[str]:
    """Yield the names to try until one is free: <stem><suffix>, <stem>~2<suffix>, <stem>~3<suffix> and so on.

    `stem` is shortened where a name would be longer than `max_bytes`.
    """
    for number in itertools.count(1):
        tail = (f"~{number}" if number > 1 else "") + suffix
        yield _cut(stem, max_bytes - len(os.fsencode(tail))) + tail


def _cut(text: str, max_bytes: int) -> str:
    """Shorten `text` to `max_bytes` in the file system's encoding, without splitting a character."""
    while len(os.fsencode(text)) > max_bytes:
        text = text[:-1]
    return text


def put_in_place(scratch: Path, target: Path) -> None:
    """Rename `scratch` to `target` when its content is on the disk.

    `target` is then the old file or the whole new one, even after a power cut. Both are on one file system.
    """
    with open(scratch, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(scratch, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut.

    Windows has no such call and needs none, since NTFS journals names. Errors are ignored: the rename itself is done,
    and an exception would tell the caller otherwise.
    """
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def open_regular(path: str) -> IO[bytes]:
    """Open a regular file for reading; raises `MachineFault` for anything else.

    The path may have become a FIFO, which would block for ever, or a device, which may never end.
    """

    def without_waiting(path: str, flags: int) -> int:
        # Windows has neither O_NONBLOCK nor FIFOs.
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=without_waiting)  # noqa: SIM115  # the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise MachineFault("it is no longer a regular file; run again when it is one")


def sha256_of(file: IO[bytes]) -> str:
    """Return the hex sha256 of an open file, read from its start."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # accepts IO[bytes]


def sha256_of_path(path: str | Path) -> str:
    """Return the hex sha256 of a file."""
    with open(path, "rb") as file:
        return sha256_of(file)


def check_unchanged(file: IO[bytes], found: FoundFile) -> None:
    """Raise `MachineFault` if the file changed since it was found.

    Its samples would not match the row's size.
    """
    status = os.fstat(file.fileno())
    if size_and_mtime_ns(status) != (found.size_bytes, found.mtime_ns):
        raise MachineFault("it changed after it was found; run again when it is complete")
