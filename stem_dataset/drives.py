"""Drives that hang, that are gone, or that are on a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stem_dataset.errors import UsageError
from stem_dataset.files import is_inside
from stem_dataset.logs import log, printable

STAT_S = 5.0  # a drive that does not tell a file's size within that time hangs
DEAD_DRIVE_TEXT = f"its drive hangs: no answer within {STAT_S:g} s"


def is_gone(path: str) -> bool:
    """Whether there is nothing at `path`. Raises TimeoutError for a drive that hangs: it is asked in a thread, since
    who waits for it waits in the kernel."""
    asked = ThreadPoolExecutor(1).submit(os.lstat, path)
    try:
        asked.result(STAT_S)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except TimeoutError:
        raise
    except OSError:  # it may be there, for all we know
        pass
    return False


def answers(path: str) -> bool:
    """Whether the file system answers a `stat` of `path` within `STAT_S`, be it with an error: a dead network share
    does not, and whoever asks it waits in the kernel, where not even SIGKILL need end it. Hence a process, left behind
    then: a thread would keep this one from ending."""
    command = [sys.executable, "-SIc", "import os, sys; os.path.exists(sys.argv[1])", path]
    asked = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asked.wait(STAT_S)
    except subprocess.TimeoutExpired:
        asked.kill()
        return False
    return True


# As Linux's /proc/self/mountinfo and macOS's `mount` call them. Not what one machine alone sees, whoever serves it:
# virtiofs (to a virtual machine), fuseblk (NTFS), overlay; nor what FUSE serves under other names.
NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 cifs smb2 smb3 smbfs ncpfs 9p afs afpfs webdav davfs coda ceph glusterfs lustre beegfs gpfs orangefs "
    "pvfs2 vboxsf vmhgfs prl_fs fuse.sshfs fuse.glusterfs fuse.ceph fuse.ceph-fuse fuse.smbnetfs fuse.rclone "
    "fuse.s3fs fuse.gcsfuse fuse.goofys fuse.juicefs fuse.vmhgfs-fuse fuse.afpfs fuse.curlftpfs".split()
)
MOUNTINFO_LINE = re.compile(r"\S+ \S+ \S+ \S+ (?P<folder>\S+) .* - (?P<type>\S+) ")  # man 5 proc
MOUNT_LINE = re.compile(r".+? on (?P<folder>/.*) \((?P<type>\w+)")  # //me@nas/music on /Volumes/music (smbfs, …)


def refuse_network_drive(database: Path, proc: Path = Path("/proc")) -> None:
    """Raise `UsageError` where `database` lies, or would, on a network file system; nothing is touched.

    In WAL mode SQLite keeps the WAL's index in shared memory, which machines do not share: two that open the database
    would damage it (https://www.sqlite.org/wal.html), and some of these file systems fail with one alone.
    """
    file_system = network_file_system(os.path.realpath(database), proc)
    if file_system is not None:
        raise UsageError(
            f"{printable(database)}: lies on a network file system ({file_system}), where SQLite cannot keep it: its "
            "write-ahead log (WAL) needs memory that all its readers share, and machines share none. No file was "
            "touched. Give a --database on a local disk; --input, --stems, --quarantine and --log-file may be remote"
        )


def network_file_system(path: str, proc: Path) -> str | None:
    """Return the type of the file system that holds the real path `path`, or would, if it is one of the network's."""
    if sys.platform == "win32":
        import ctypes

        remote = 4  # DRIVE_REMOTE: \\server\share, or a drive's letter that stands for one
        root = os.path.splitdrive(path)[0] + "\\"
        return "a network drive" if ctypes.windll.kernel32.GetDriveTypeW(root) == remote else None
    try:
        if (proc / "self" / "mountinfo").exists():
            text = (proc / "self" / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
            kind = file_system_of(path, text, MOUNTINFO_LINE)
        else:
            mount = subprocess.run(["/sbin/mount"], capture_output=True, timeout=STAT_S, check=True)
            kind = file_system_of(path, os.fsdecode(mount.stdout), MOUNT_LINE)
    except (OSError, subprocess.SubprocessError) as error:  # whatever it is then, it may well be local
        log.debug("what file system holds %s is not known: %s", printable(path), error)
        return None
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def file_system_of(path: str, mounts: str, line_form: re.Pattern[str]) -> str | None:
    """Return the type of the file system that holds the real path `path` by a system's list of mounts: that of the
    longest mount point, the last of several at one."""
    found: tuple[int, str] | None = None
    for match in filter(None, map(line_form.match, mounts.split("\n"))):
        folder = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), match["folder"])  # a space is \040
        if is_inside(path, folder) and (found is None or len(folder) >= found[0]):
            found = len(folder), match["type"]
    return found[1] if found else None
