"""The walk over the input: which files are stems, and why the rest are not. Nothing is opened."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from stem_dataset.datatypes import FoundFile
from stem_dataset.errors import with_remedy
from stem_dataset.files import is_inside, size_and_mtime_ns
from stem_dataset.logs import log, printable
from stem_dataset.summary import Summary

READABLE_SUFFIXES = frozenset(
    ".wav .wave .bwf .rf64 .w64 .aif .aiff .aifc .flac .ogg .oga .opus .spx .mp3 .mp2 .caf .au .snd .voc .m4a .m4b "
    ".m4r .mp4 .mov .3gp .aac .wma .ape .wv .tta .mpc .mka .webm .ac3 .eac3 .dts .ra".split()
)
DANGLING_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)  # Windows' loop: EINVAL


def discover(root: str, own_folders: frozenset[str], summary: Summary) -> Iterator[FoundFile]:
    """Yield the audio files under `root`, each folder's sorted and before its subfolders'; count the rest by reason.

    One `scandir` a folder and one `stat` a file, since each is a journey to the server where the input is a network
    share. `root` and `own_folders` (never entered) are real paths. A linked folder is never entered, so there is no
    loop. A folder that cannot be listed counts as one failed file: its stems are missing, and the next run looks again.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            log.warning("%s: this folder cannot be listed: %s", printable(folder), printable(with_remedy(error)))
            summary.found += 1
            summary.failed += 1
            summary.unseen.append(folder)
            continue
        subfolders = []
        for entry in entries:
            if _is_folder(entry) and not entry.name.startswith("."):
                if entry.path not in own_folders:
                    subfolders.append(entry.path)
                    if _suffix(entry.name) in READABLE_SUFFIXES:
                        _ignore(summary, "folder with an audio name")
                continue
            found = _examine(entry, root, summary)
            if found is not None:
                yield found
        folders.extend(reversed(subfolders))


def _examine(entry: os.DirEntry[str], root: str, summary: Summary) -> FoundFile | None:
    """Return `entry` as a file to process, or count why it is not one."""
    summary.found += 1
    try:
        reason = _reason_to_ignore(entry, root)
        if reason is None:
            status = entry.stat()
            return FoundFile(entry.path, *size_and_mtime_ns(status))
        summary.ignored[reason] += 1
    except OSError as error:
        log.warning("%s: vanished or unreadable: %s", printable(entry.path), printable(with_remedy(error)))
        summary.failed += 1
        summary.unseen.append(entry.path)
    return None


def _ignore(summary: Summary, reason: str) -> None:
    summary.found += 1
    summary.ignored[reason] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_linked_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()  # which keeps the target's status for `stat`
    except OSError:
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _reason_to_ignore(entry: os.DirEntry[str], root: str) -> str | None:
    """Return why `entry`, which is no plain folder, is not a stem, or None if it is one."""
    suffix = _suffix(entry.name)
    if entry.name.startswith("._"):
        return "resource fork"
    if entry.name.startswith("."):
        return "hidden"
    if _is_linked_folder(entry):
        return "linked folder"  # whatever its name: its stems are missing
    if suffix not in READABLE_SUFFIXES:
        return "not audio"
    if entry.is_symlink():
        return _reason_to_ignore_link(entry.path, root)
    return None if entry.is_file(follow_symlinks=False) else "not a regular file"


def _reason_to_ignore_link(link: str, root: str) -> str | None:
    """A link to a file inside the input has its target there; one to a file outside is a stem of its own.

    Raises OSError where the target may be there and cannot be looked at.
    """
    try:
        mode = os.stat(link).st_mode
    except OSError as error:
        if error.errno not in DANGLING_ERRNOS:
            raise
        return "dangling link"
    if stat.S_ISDIR(mode):
        return "linked folder"
    if not stat.S_ISREG(mode):
        return "not a regular file"
    return "link to a file inside" if is_inside(os.path.realpath(link), root) else None
