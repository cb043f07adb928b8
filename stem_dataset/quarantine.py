"""Move broken files to quarantine, with a JSON that says why, and back."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import traceback
from pathlib import Path
from typing import IO

from stem_dataset.datatypes import FormerRow, FoundFile, QuarantineEntry, utc_now
from stem_dataset.errors import with_remedy
from stem_dataset.files import (
    NAME_BYTES,
    check_unchanged,
    numbered_names,
    open_regular,
    put_in_place,
    sha256_of,
    sha256_of_path,
    size_and_mtime_ns,
    sync_folder,
)
from stem_dataset.logs import log, printable


def quarantine_file(found: FoundFile, error: Exception, folder: Path, run_id: str) -> QuarantineEntry:
    """Move a broken file into `folder` as ERROR_<ExceptionName>_<name>, with a JSON beside it.

    Raises OSError if the file cannot be moved, and leaves it where it was. If the file was copied but cannot be removed
    from a read-only library, the copy and its JSON stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_regular(found.path) as file:
        digest = sha256_of(file)
        # A file that is still being copied in is incomplete, but not broken.
        check_unchanged(file, found)
    path, json_file = _claim_name(folder, f"ERROR_{type(error).__name__}_", os.path.basename(found.path))
    entry = QuarantineEntry(
        path=str(path),
        original_file=found.path,
        error={
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        },
        quarantined_at=utc_now(),
        size_bytes=found.size_bytes,
        mtime_ns=found.mtime_ns,
        sha256=digest,
        run_id=run_id,
        link_target=os.readlink(found.path) if os.path.islink(found.path) else None,
        former=found.former,
    )
    try:
        with json_file:
            json_file.write(json.dumps(dataclasses.asdict(entry), indent=1))
            json_file.flush()
            os.fsync(json_file.fileno())
        _move(Path(found.path), path, entry)
    except BaseException:
        # If the file has already been moved, only the JSON says where it came from.
        if not os.path.lexists(path):
            json_path_of(path).unlink(missing_ok=True)
        raise
    return entry


def json_path_of(quarantined: Path) -> Path:
    """Return the path of a quarantined file's JSON."""
    return quarantined.with_name(quarantined.name + ".json")


def _claim_name(folder: Path, prefix: str, name: str) -> tuple[Path, IO[str]]:
    """Return a free path in `folder`, and its JSON opened for writing.

    The path is `prefix` and `name`, or numbered if that or its JSON is taken. Creating the JSON exclusively claims the
    name.
    """
    stem, suffix = os.path.splitext(prefix + name)
    for path in map(folder.joinpath, numbered_names(stem, suffix, NAME_BYTES - len(".json"))):
        if not os.path.lexists(path):
            with contextlib.suppress(FileExistsError):
                return path, open(json_path_of(path), "x", encoding="ascii")
    raise AssertionError("the numbers do not end")


def _move(source: Path, target: Path, entry: QuarantineEntry) -> None:
    """Move `source` to `target`, which does not exist, by renaming or copying."""
    # A relative link would not resolve from another folder.
    if entry.link_target is not None:
        os.symlink(os.path.realpath(source), target)
        remove_source(source)
        return
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        _copy_across(source, target, entry.sha256)
        remove_source(source)
    sync_folder(target.parent)


def _copy_across(source: Path, target: Path, sha256: str) -> None:
    """Copy `source` to another file system so that `target` is complete or absent."""
    scratch = half_copy_of(target)
    # A killed run may have left a copy that is already read-only.
    scratch.unlink(missing_ok=True)
    try:
        shutil.copyfile(source, scratch)
        if sha256_of_path(scratch) != sha256:
            raise OSError(errno.EIO, "the copy in quarantine differs from its source", str(source))
        put_in_place(scratch, target)
        # Last, because a read-only file could not be opened to sync it.
        shutil.copystat(source, target)
    finally:
        scratch.unlink(missing_ok=True)


def half_copy_of(target: Path) -> Path:
    """Return the path of the unfinished copy of `target`.

    It is always the same for one target, so that the next run finds what a killed one left.
    """
    return target.parent / f".{hashlib.sha256(os.fsencode(target)).hexdigest()[:32]}.tmp"


def remove_source(source: Path) -> None:
    """Remove a file that was copied to quarantine, or log a warning.

    A file in a read-only library stays, and later runs skip it because of its quarantine entry.
    """
    try:
        source.unlink()
    except OSError as error:
        log.warning(
            "%s: copied to quarantine, but cannot be removed here: %s", printable(source), printable(with_remedy(error))
        )


def finish_move(entry: QuarantineEntry) -> None:
    """Remove the original if a process was killed after copying it to quarantine."""
    if is_same_file(Path(entry.original_file), entry):
        remove_source(Path(entry.original_file))


def is_same_file(path: Path, entry: QuarantineEntry) -> bool:
    """Return whether `path` is the unchanged original of a quarantine entry."""
    if path.is_symlink() or entry.link_target is not None:
        return path.is_symlink() and os.readlink(path) == entry.link_target
    try:
        status = path.stat()
    except OSError:
        return False
    unchanged = size_and_mtime_ns(status) == (entry.size_bytes, entry.mtime_ns)
    return unchanged and sha256_of_path(path) == entry.sha256


def put_back(quarantined: Path, original: Path, entry: QuarantineEntry) -> None:
    """Move a quarantined file back to `original`, a path that does not exist."""
    original.parent.mkdir(parents=True, exist_ok=True)
    if entry.link_target is None:
        _move(quarantined, original, entry)
    else:
        os.symlink(entry.link_target, original)
        quarantined.unlink()


def read_entry(json_path: str | Path) -> QuarantineEntry | None:
    """Read a quarantine JSON; None if it is foreign or incomplete."""
    try:
        content = json.loads(Path(json_path).read_text(encoding="ascii"))
        former = content.pop("former")
        return QuarantineEntry(**content, former=FormerRow(**former) if former else None)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def relocate_entry(path: Path, entry: QuarantineEntry, original_file: str) -> None:
    """Rewrite the JSON of the quarantined file `path`: it came from `original_file`, as its folder is called now."""
    json_path = json_path_of(path)
    scratch = half_copy_of(json_path)
    with open(scratch, "w", encoding="ascii") as file:
        file.write(
            json.dumps(
                dataclasses.asdict(dataclasses.replace(entry, path=str(path), original_file=original_file)), indent=1
            )
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, json_path)


def log_quarantined(entry: QuarantineEntry) -> None:
    log.error(
        "%s: quarantined as %s: %s",
        printable(entry.original_file),
        printable(os.path.basename(entry.path)),
        printable(entry.error_text),
    )
