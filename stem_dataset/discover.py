"""Find the stems in the input without opening any file.

The other files are counted by the reason why they are ignored.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from stem_dataset.datatypes import FoundFile
from stem_dataset.errors import with_remedy
from stem_dataset.files import inode_of, is_inside, size_and_mtime_ns
from stem_dataset.logs import log, printable
from stem_dataset.output_folders import LOCK_NAME
from stem_dataset.summary import Summary

READABLE_SUFFIXES = frozenset(
    ".wav .wave .bwf .rf64 .w64 .aif .aiff .aifc .flac .ogg .oga .opus .spx .mp3 .mp2 .caf .au .snd .voc .m4a .m4b "
    ".m4r .mp4 .mov .3gp .aac .wma .ape .wv .tta .mpc .mka .webm .ac3 .eac3 .dts .ra".split()
)
# Windows reports a loop of links as EINVAL.
DANGLING_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


# Operating systems and network drives keep deleted files, thumbnails and recovered fragments in these folders. The walk
# does not enter them, nor folders whose names begin with a dot.
SKIPPED_FOLDERS = frozenset(
    name.lower()
    for name in (
        *("$RECYCLE.BIN", "System Volume Information", "RECYCLER", "lost+found"),
        *("#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "@eaDir", "@__thumb", "@tmp"),
        *("__MACOSX", "Network Trash Folder", "Temporary Items"),
    )
)


@dataclass(frozen=True, slots=True)
class WalkRules:
    """The rules by which the walk leaves out folders and files."""

    root: str  # a real path
    own_folders: frozenset[str] = frozenset()  # real paths of this run's outputs
    exclude: tuple[str, ...] = ()  # globs for paths relative to `root`
    follow_links: bool = False  # whether to enter linked folders

    def excludes(self, path: str) -> bool:
        """Return whether a glob matches the path relative to the root.

        An asterisk matches slashes too.
        """
        below = os.path.relpath(path, self.root).replace(os.sep, "/")
        return any(fnmatch.fnmatchcase(below, pattern.rstrip("/")) for pattern in self.exclude)

    def skips_folder(self, path: str) -> bool:
        """Return whether the walk leaves out a folder without counting it.

        Hidden folders do not belong here: each is counted as an ignored entry.
        """
        return path in self.own_folders or os.path.basename(path).lower() in SKIPPED_FOLDERS

    def takes(self, path: str) -> bool:
        """Return whether the walk reaches this real path without a link.

        If it does, a link to the file would import the same stem twice.
        """
        if not is_inside(path, self.root) or path == self.root:
            return False
        *folders, name = os.path.relpath(path, self.root).split(os.sep)
        parents = [os.path.join(self.root, *folders[: depth + 1]) for depth in range(len(folders))]
        entered = not any(folder.startswith(".") for folder in folders)
        entered = entered and not any(self.skips_folder(each) or self.excludes(each) for each in parents)
        entered = entered and not any(os.path.lexists(os.path.join(each, LOCK_NAME)) for each in parents)
        return entered and not name.startswith(".") and _suffix(name) in READABLE_SUFFIXES and not self.excludes(path)


def discover(rules: WalkRules, summary: Summary) -> Iterator[FoundFile]:
    """Yield the audio files under the root, and count the others by reason.

    The files of a folder are sorted, and come before those of its subfolders. The walk makes one `scandir` per folder
    and one `stat` per file, since each is a round trip to the server if the input is a network share. A linked folder
    is entered only if `rules` say so, and each real folder once, so there is no loop. A folder that cannot be listed
    counts as one failed file: its stems are missing, and the next run tries again.
    """
    folders = [rules.root]
    entered = {rules.root}  # real paths, for `follow_links` only
    linked = ""  # the first link not followed
    with_audio_names = taken = 0
    while folders:
        folder = folders.pop()
        entries = _entries_of(folder, rules, summary)
        subfolders = []
        for entry in entries:
            is_link = _is_linked_folder(entry)
            if (_is_folder(entry) or (is_link and rules.follow_links)) and not entry.name.startswith("."):
                if _is_entered(entry, is_link, entered, rules, summary):
                    subfolders.append(entry.path)
                continue
            if is_link and not linked and not entry.name.startswith("."):
                linked = entry.path
            with_audio_names += _suffix(entry.name) in READABLE_SUFFIXES
            found = _examine(entry, rules, summary)
            if found is not None:
                taken += 1
                yield found
        folders.extend(reversed(subfolders))
    if linked:
        log.warning("%s: a linked folder, not entered; --follow-links enters such folders", printable(linked))
    if with_audio_names and not taken:
        log.warning(
            "%s holds %d files with audio names, and none of them was taken: %s",
            printable(rules.root),
            with_audio_names,
            ", ".join(f"{count} {reason}" for reason, count in sorted(summary.ignored.items())) or "all failed",
        )


def _entries_of(folder: str, rules: WalkRules, summary: Summary) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name; none, and a count, for one that is not walked."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        log.warning("%s: this folder cannot be listed: %s", printable(folder), printable(with_remedy(error)))
        summary.found += 1
        summary.fail_unseen(folder, with_remedy(error))
        return []
    if folder != rules.root and any(entry.name == LOCK_NAME for entry in entries):
        _ignore(summary, "output folder of another run")
        return []
    return entries


def _is_entered(entry: os.DirEntry[str], is_link: bool, entered: set[str], rules: WalkRules, summary: Summary) -> bool:
    """Return whether the walk enters a folder, or a link to one.

    An excluded folder is counted as ignored. So is one with an audio name, although the walk enters it.
    """
    if rules.skips_folder(entry.path):
        return False
    if rules.excludes(entry.path):
        _ignore(summary, "excluded folder")
        return False
    if rules.follow_links:
        real_path = os.path.realpath(entry.path)
        if real_path in entered or rules.skips_folder(real_path):
            return False
        if is_link and is_inside(real_path, rules.root):
            return False  # it is reached without the link
        entered.add(real_path)
    if _suffix(entry.name) in READABLE_SUFFIXES:
        _ignore(summary, "folder with an audio name")
    return True


def _examine(entry: os.DirEntry[str], rules: WalkRules, summary: Summary) -> FoundFile | None:
    """Return `entry` as a file to process, or count the reason why not."""
    summary.found += 1
    try:
        reason = _reason_to_ignore(entry, rules)
        if reason is None:
            status = entry.stat()
            return FoundFile(entry.path, *size_and_mtime_ns(status), inode=inode_of(status))
        summary.ignored[reason] += 1
    except OSError as error:
        log.warning("%s: vanished or unreadable: %s", printable(entry.path), printable(with_remedy(error)))
        summary.fail_unseen(entry.path, with_remedy(error))
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
        return entry.is_symlink() and entry.is_dir()  # caches the target's status for `stat`
    except OSError:
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _reason_to_ignore(entry: os.DirEntry[str], rules: WalkRules) -> str | None:
    """Return why `entry` is not a stem, or None if it is one.

    The entry is not a plain folder.
    """
    suffix = _suffix(entry.name)
    if entry.name.startswith("._"):
        return "resource fork"
    if entry.name.startswith("."):
        return "hidden"
    # Checked before the suffix: a link to a folder leaves out its stems, whatever its name.
    if _is_linked_folder(entry):
        return "linked folder"
    if suffix not in READABLE_SUFFIXES:
        return "not audio"
    if rules.exclude and rules.excludes(entry.path):
        return "excluded"
    if entry.is_symlink():
        return _reason_to_ignore_link(entry.path, rules)
    return None if entry.is_file(follow_symlinks=False) else "not a regular file"


def _reason_to_ignore_link(link: str, rules: WalkRules) -> str | None:
    """Return why a link is not a stem, or None if it is one.

    A link to a file that the walk also finds would import the same stem twice. A link to any other file is a stem: a
    git-annex clone, for example, keeps its files in a hidden folder. Raises OSError if the target may exist but cannot
    be examined.
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
    return "link to a file inside" if rules.takes(os.path.realpath(link)) else None
