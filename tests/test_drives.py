"""A database on a network file system is refused before anything is touched; whatever else may lie on one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import audio_files
from audio_files import write_tone
from fake_clap import FakeClap
from patching import replace_name
from prepare_dataset_sql import main
from stem_dataset.database.stems import Database
from stem_dataset.drives import (
    MOUNT_LINE,
    MOUNTINFO_LINE,
    NETWORK_FILE_SYSTEMS,
    file_system_of,
    network_file_system,
    refuse_network_drive,
)
from stem_dataset.errors import UsageError, with_remedy
from workplace import Workplace

MOUNTINFO = r"""21 27 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
27 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
95 27 0:45 / /mnt/nas rw,relatime shared:50 master:3 - nfs4 nas:/volume1/samples rw,vers=4.2,addr=10.0.0.9
96 27 0:46 / /mnt/nas\040of\040the\040lab rw,relatime - cifs //lab/music rw,vers=3.1.1,username=me
97 95 259:3 / /mnt/nas/scratch rw,relatime shared:51 - xfs /dev/sdb1 rw
98 27 0:47 / /home rw,relatime shared:52 - autofs auto.home rw,fd=6
99 98 0:48 /me /home/me rw,relatime - fuse.sshfs me@host:/home/me rw,user_id=1000
100 27 0:49 / /home rw,relatime shared:53 - nfs server:/home rw
101 27 0:50 / /host rw,relatime - virtiofs share rw
102 27 8:17 / /media/usb rw,relatime - fuseblk /dev/sdc1 rw,user_id=0
103 27 0:51 / /mnt/c rw,noatime - 9p C:\134 rw,dirsync,aname=drvfs;path=C:\
104 27 0:52 /a\134b /bound rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b - x
"""
MOUNT = """/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
//me@nas._smb._tcp.local/Sample%20Packs on /Volumes/Sample Packs (old) (smbfs, nodev, nosuid, mounted by me)
nas:/volume1 on /Volumes/nfs (nfs, nodev, nosuid, mounted by me)
/dev/disk4s1 on /Volumes/on (exfat, local, nodev, nosuid, noowners)
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/stems.db", "ext4"),
        ("/mnt/stems.db", "ext4"),
        ("/mnt/nas", "nfs4"),
        ("/mnt/nas/a/stems.db", "nfs4"),
        ("/mnt/nas2/stems.db", "ext4"),
        ("/mnt/nas/scratch/stems.db", "xfs"),
        ("/mnt/nas of the lab/stems.db", "cifs"),
        ("/home/you/stems.db", "nfs"),  # mounted over the autofs
        ("/home/me/stems.db", "fuse.sshfs"),
        ("/host/stems.db", "virtiofs"),
        ("/media/usb/stems.db", "fuseblk"),
        ("/mnt/c/Users/me/stems.db", "9p"),
        ("/bound/stems.db", "overlay"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_longest_mount_point(path: str, kind: str) -> None:
    assert file_system_of(path, MOUNTINFO, MOUNTINFO_LINE) == kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/Users/me/stems.db", "apfs"),
        ("/Volumes/Sample Packs (old)/stems.db", "smbfs"),
        ("/Volumes/nfs/stems.db", "nfs"),
        ("/Volumes/on/stems.db", "exfat"),
        ("/System/Volumes/Data/Users/me/stems.db", "apfs"),
    ],
)
def test_the_mounts_of_macos_are_read_as_well(path: str, kind: str) -> None:
    assert file_system_of(path, MOUNT, MOUNT_LINE) == kind


def test_those_of_the_network_are_told_from_those_that_one_machine_sees() -> None:
    kinds = {path: file_system_of(path, MOUNTINFO, MOUNTINFO_LINE) for path in ("/", "/host", "/media/usb")}
    assert NETWORK_FILE_SYSTEMS.isdisjoint(kinds.values())
    assert {"nfs", "nfs4", "cifs", "fuse.sshfs", "9p", "smbfs"} <= NETWORK_FILE_SYSTEMS


def proc_with(folder: Path, network: Path) -> Path:
    """Return a /proc in which `network` is where an NFS share is mounted."""
    proc = folder / "proc"
    (proc / "self").mkdir(parents=True)
    mount_point = str(network).replace(" ", "\\040")
    text = f"{MOUNTINFO}105 27 0:53 / {mount_point} rw - nfs4 nas:/ rw\n"
    (proc / "self" / "mountinfo").write_text(text, encoding="utf-8", errors="surrogateescape")
    return proc


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's list of mounts")


@needs_linux
def test_a_link_to_a_share_leads_to_the_share_and_a_name_that_only_begins_alike_does_not(tmp_path: Path) -> None:
    share = tmp_path / "the share"
    share.mkdir()
    proc = proc_with(tmp_path, share)
    (tmp_path / "link").symlink_to(share)
    with pytest.raises(UsageError, match="nfs4"):
        refuse_network_drive(tmp_path / "link" / "not yet there" / "stems.db", proc)
    refuse_network_drive(tmp_path / "the share 2" / "stems.db", proc)


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch, workplace: Workplace) -> Path:
    """An empty folder of the workplace of which the system says that it is on NFS."""
    share = workplace.folder / "share"
    share.mkdir()
    proc, real = proc_with(workplace.folder, Path(os.path.realpath(share))), network_file_system
    replace_name(monkeypatch, "network_file_system", lambda path, _: real(path, proc))
    return share


@needs_linux
@pytest.mark.parametrize("mode", [[], ["--restore-quarantine"], ["--re-embed"], ["--verify-vectors"]])
def test_a_database_on_a_share_is_refused_before_anything_is_touched(
    mode: list[str], share: Path, workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tone(workplace.input / "a.wav")
    if mode in (["--re-embed"], ["--verify-vectors"]):  # which say first where there is none
        Database(share / "stems.db").close()
    before = audio_files.tree(workplace.folder)
    assert main([*workplace.flags(), "--database", str(share / "stems.db"), *mode]) == UsageError.exit_code == 2
    message = capsys.readouterr().err
    for part in (str(share / "stems.db"), "(nfs4)", "memory that all readers share", "--database on a local disk"):
        assert part in message
    assert audio_files.tree(workplace.folder) == before


@needs_linux
def test_all_but_the_database_may_lie_on_a_share(
    share: Path, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio_files.use_inline_workers(monkeypatch)
    write_tone(share / "in" / "a.wav")
    remote = {name: share / name for name in ("stems", "quarantine", "log_file")}
    assert workplace.run(FakeClap(), input=share / "in", **remote).inserted == 1


def test_this_machine_s_temporary_folder_is_no_share(tmp_path: Path) -> None:
    """Else no other test would run; and the system's own list of mounts can be read."""
    assert network_file_system(os.path.realpath(tmp_path), Path("/proc")) is None
    if sys.platform == "linux":
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        assert file_system_of(os.path.realpath(tmp_path), mounts, MOUNTINFO_LINE) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="asks Windows")
def test_where_the_system_says_nothing_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("mount", 1)

    monkeypatch.setattr(subprocess, "run", fail)
    assert network_file_system(str(tmp_path), tmp_path / "no proc") is None


def test_a_share_without_locks_is_told_what_it_lacks() -> None:
    error = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    assert "lock service" in with_remedy(error)
