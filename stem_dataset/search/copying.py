"""Copy the originals of what was found into one folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stem_dataset.errors import MachineFault, RunStopped, with_remedy
from stem_dataset.files import numbered_names, open_regular
from stem_dataset.logs import log, printable
from stem_dataset.search.library import Hit
from stem_dataset.search.output import COLUMNS, csv_of, valid_text, values_of

LIST_NAME = "copied_from"


def copy_originals(hits: Sequence[Hit], folder: Path, tick: Callable[[], None]) -> int:
    """Copy the originals of `hits` into `folder`, and return how many could not be copied.

    No file is overwritten: where a name is taken, a copy gets a number. copied_from.csv in the folder says where each
    came from, also if `tick`, which is called before each file, raises. Raises `RunStopped` if the folder cannot be
    written.
    """
    rows: list[dict[str, Any]] = []
    failed = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunStopped(f"--copy-to {printable(folder)}: cannot be made: {printable(with_remedy(error))}") from None
    try:
        for hit in hits:
            tick()
            copy = _copy_of(hit, folder)
            if copy is None:
                failed += 1
            else:
                rows.append({"copy": valid_text(copy.name), **values_of(hit)})
    finally:
        if rows:
            listed = _write_new(folder, LIST_NAME, ".csv", csv_of(rows, ["copy", *COLUMNS]))
            log.info("%d copied to %s, listed in %s", len(rows), printable(folder), printable(listed.name))
    return failed


def _copy_of(hit: Hit, folder: Path) -> Path | None:
    try:
        source = open_regular(hit.original_file)
    except (OSError, MachineFault) as error:
        log.error("%s: not copied: %s", printable(hit.original_file), printable(with_remedy(error)))
        return None
    with source:
        stem, suffix = os.path.splitext(hit.file_name)
        return _write_new(folder, stem, suffix, source)


def _write_new(folder: Path, stem: str, suffix: str, content: Any) -> Path:
    """Write `content`, bytes or an open file, to a name in `folder` that is free; return its path."""
    for name in numbered_names(stem, suffix):
        path = folder / name
        try:
            # "x" never opens an existing file, even if the file system ignores case and the names differ only in case.
            target = open(path, "xb")  # noqa: SIM115  # closed below
        except FileExistsError:
            continue
        except OSError as error:
            raise RunStopped(f"{printable(path)}: cannot be written: {printable(with_remedy(error))}") from None
        try:
            with target:
                if isinstance(content, bytes):
                    target.write(content)
                else:
                    shutil.copyfileobj(content, target, 2**20)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise RunStopped(f"{printable(path)}: not copied: {printable(with_remedy(error))}") from None
            raise
        return path
    raise AssertionError("numbered_names never ends")
