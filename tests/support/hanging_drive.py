"""A drive that stops answering: FUSE in Python, for Linux's root.

    python tests/support/hanging_drive.py SOURCE MOUNT_POINT NAME CACHED_S

shows the files of SOURCE, read-only, at MOUNT_POINT and prints "mounted". What the kernel has once asked about a file's
status it may believe for CACHED_S seconds. From the first read of the file NAME on
nothing is answered any more, as with a network share whose server has gone: whoever asks waits in the kernel, where
not even SIGKILL ends it, until this process ends. The structures are those of Linux's include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from pathlib import Path

IN_HEADER = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
OUT_HEADER = struct.Struct("<IiQ")  # length, -errno, unique
INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
ATTRIBUTES = struct.Struct("<6Q10I")
READ_IN = struct.Struct("<QQI")  # file handle, offset, size
DIRENT = struct.Struct("<QQII")  # inode, offset of the next, length of the name, type
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT = 1, 2, 3, 14, 15, 18, 25, 26
OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 27, 28, 29, 36, 38, 42
WITHOUT_ANSWER = {FORGET, BATCH_FORGET, INTERRUPT, DESTROY}
ROOT = 1


class HangingDrive:
    """Answers the kernel's requests until the file `hangs_at` is read."""

    def __init__(self, source: Path, hangs_at: str, cached_s: int) -> None:
        self.source = source
        self.names = sorted(os.listdir(source))  # node 2 is the first
        self.hangs_at = hangs_at
        self.cached_s = cached_s
        self.hangs = False
        self.device = os.open("/dev/fuse", os.O_RDWR)

    def mount(self, mount_point: Path) -> None:
        options = f"fd={self.device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"drive", os.fsencode(mount_point), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(mount_point))

    def serve(self) -> None:
        """Answer, or take requests without answering them, until this process is killed."""
        while True:
            request = os.read(self.device, 1 << 18)
            _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
            error, body = 0, b""
            try:
                body = self._answer(opcode, node, request[IN_HEADER.size :])
            except OSError as problem:
                error = problem.errno or errno.EIO
            if not self.hangs and opcode not in WITHOUT_ANSWER:
                os.write(self.device, OUT_HEADER.pack(OUT_HEADER.size + len(body), -error, unique) + body)

    def _answer(self, opcode: int, node: int, body: bytes) -> bytes:
        if opcode == INIT:
            return INIT_OUT.pack(7, 31, 0, 0, 0, 0, 1 << 16, 1, 0, 0, 0)
        if opcode == LOOKUP:
            name = os.fsdecode(body.rstrip(b"\0"))
            if name not in self.names:
                raise OSError(errno.ENOENT, name)
            found = self.names.index(name) + 2
            return struct.pack("<QQQQII", found, 0, self.cached_s, self.cached_s, 0, 0) + self._attributes(found)
        if opcode == GETATTR:
            return struct.pack("<QII", self.cached_s, 0, 0) + self._attributes(node)
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<QII", 0, 0, 0)
        if opcode == READ:
            return self._read(node, *READ_IN.unpack_from(body)[1:])
        if opcode == READDIR:
            return self._list(READ_IN.unpack_from(body)[1])
        if opcode in (RELEASE, RELEASEDIR, FLUSH, *WITHOUT_ANSWER):
            return b""
        raise OSError(errno.ENOSYS, "not needed")

    def _path(self, node: int) -> Path:
        return self.source if node == ROOT else self.source / self.names[node - 2]

    def _attributes(self, node: int) -> bytes:
        status = os.stat(self._path(node))
        seconds = [int(t) for t in (status.st_atime, status.st_mtime, status.st_ctime)]
        fractions = [t % 10**9 for t in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)]
        owner = (status.st_uid, status.st_gid)
        return ATTRIBUTES.pack(
            *(node, status.st_size, status.st_blocks, *seconds, *fractions), status.st_mode, 1, *owner, 0, 4_096, 0
        )

    def _read(self, node: int, offset: int, size: int) -> bytes:
        path = self._path(node)
        self.hangs = self.hangs or path.name == self.hangs_at
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def _list(self, offset: int) -> bytes:
        """Return all entries at once: there are few."""
        if offset:
            return b""
        entries = b""
        for number, name in enumerate(self.names):
            raw = os.fsencode(name)
            entry = DIRENT.pack(number + 2, number + 1, len(raw), stat.S_IFREG >> 12) + raw
            entries += entry.ljust(-(-len(entry) // 8) * 8, b"\0")
        return entries


def main(source: str, mount_point: str, hangs_at: str, cached_s: str) -> None:
    drive = HangingDrive(Path(source), hangs_at, int(cached_s))
    drive.mount(Path(mount_point))
    print("mounted", flush=True)
    drive.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
