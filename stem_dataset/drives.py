"""Drives that hang, that are gone, or that are on a network.

A call to a drive that hangs (a dead network share, a failing disk) blocks in the kernel, where no exception reaches it,
and where sometimes even SIGKILL does not end it. The policy is:

- A worker makes such calls under its time limit.
- Whether a drive answers, the parent process asks with `answers`: a process makes the call, and is left behind.
- Other calls that may hang the parent makes with `start_call`, and after a while it goes on without the result.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import ParamSpec

from stem_dataset.datatypes import T
from stem_dataset.errors import UsageError
from stem_dataset.files import is_inside
from stem_dataset.logs import log, printable

P = ParamSpec("P")
# A drive that takes longer than this to answer a `stat` counts as hanging.
STAT_S = 5.0
DEAD_DRIVE_TEXT = f"its drive hangs: no answer within {STAT_S:g} s"


def is_gone(path: str) -> bool:
    """Whether nothing exists at `path`; raises TimeoutError if the drive hangs."""
    try:
        start_call(os.lstat, path).result(STAT_S)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except TimeoutError:
        raise
    except OSError:
        # The path may exist: this error does not say that it is missing.
        pass
    return False


def answers(path: str) -> bool:
    """Whether the file system answers a `stat` of `path` in time.

    The limit is `STAT_S`. An error is an answer too. The call runs in a process that can be left behind; a thread that
    is blocked in the kernel would keep this process from ending.
    """
    command = [sys.executable, "-SIc", "import os, sys; os.path.exists(sys.argv[1])", path]
    asked = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asked.wait(STAT_S)
    except subprocess.TimeoutExpired:
        asked.kill()
        return False
    return True


def start_call(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Run `call` in a thread that may hang, and return the future of its result.

    The thread is a daemon: Python waits for those of a `ThreadPoolExecutor` when the program ends, so a drive that
    hangs would keep it from ending.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


# The names that Linux's /proc/self/mountinfo and macOS's `mount` use. File systems that only one machine sees are not
# listed, even if another machine serves them: virtiofs (to a virtual machine), fuseblk (NTFS), overlay. Nor can we list
# what FUSE serves under other names.
NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 cifs smb2 smb3 smbfs ncpfs 9p afs afpfs webdav davfs coda ceph glusterfs lustre beegfs gpfs orangefs "
    "pvfs2 vboxsf vmhgfs prl_fs fuse.sshfs fuse.glusterfs fuse.ceph fuse.ceph-fuse fuse.smbnetfs fuse.rclone "
    "fuse.s3fs fuse.gcsfuse fuse.goofys fuse.juicefs fuse.vmhgfs-fuse fuse.afpfs fuse.curlftpfs".split()
)
# The format of /proc/self/mountinfo: man 5 proc.
MOUNTINFO_LINE = re.compile(r"\S+ \S+ \S+ \S+ (?P<folder>\S+) .* - (?P<type>\S+) ")
# Example: //me@nas/music on /Volumes/music (smbfs, …)
MOUNT_LINE = re.compile(r".+? on (?P<folder>/.*) \((?P<type>\w+)")


def refuse_network_drive(database: Path, proc: Path = Path("/proc")) -> None:
    """Raise `UsageError` if `database` is, or would be, on a network file system.

    In WAL mode SQLite keeps the index of the WAL in shared memory, which machines do not share: two machines that open
    the database would damage it (https://www.sqlite.org/wal.html). Some of these file systems fail even with one.
    """
    file_system = network_file_system(os.path.realpath(database), proc)
    if file_system is not None:
        raise UsageError(
            f"{printable(database)}: is on a network file system ({file_system}), where SQLite cannot keep it: its "
            "write-ahead log (WAL) needs memory that all readers share, and machines do not share memory. No file was "
            "touched. Give a --database on a local disk; --input, --stems, --quarantine and --log-file may be remote"
        )


def network_file_system(path: str, proc: Path) -> str | None:
    """Return the type of the network file system at `path`, else None.

    `path` is a real path, which need not exist.
    """
    if sys.platform == "win32":
        import ctypes

        # GetDriveTypeW returns this for \\server\share, and for a drive letter that stands for one.
        drive_remote = 4
        root = os.path.splitdrive(path)[0] + "\\"
        return "a network drive" if ctypes.windll.kernel32.GetDriveTypeW(root) == drive_remote else None
    try:
        if (proc / "self" / "mountinfo").exists():
            text = (proc / "self" / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
            kind = file_system_of(path, text, MOUNTINFO_LINE)
        else:
            mount = subprocess.run(["/sbin/mount"], capture_output=True, timeout=STAT_S, check=True)
            kind = file_system_of(path, os.fsdecode(mount.stdout), MOUNT_LINE)
    except (OSError, subprocess.SubprocessError) as error:
        # Without an answer, assume a local file system.
        log.debug("the type of the file system of %s is unknown: %s", printable(path), error)
        return None
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def file_system_of(path: str, mounts: str, line_form: re.Pattern[str]) -> str | None:
    """Return the type of the file system that holds `path`.

    `path` is a real path, `mounts` the system's list of mounts. The longest mount point that contains the path counts;
    of several mounts at one point, the last.
    """
    found: tuple[int, str] | None = None
    for match in filter(None, map(line_form.match, mounts.split("\n"))):
        # The list writes a space as \040.
        folder = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), match["folder"])
        if is_inside(path, folder) and (found is None or len(folder) >= found[0]):
            found = len(folder), match["type"]
    return found[1] if found else None
