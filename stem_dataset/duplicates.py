"""Rows of files whose bytes a row has already: copied, moved or renamed files, which are not decoded."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from stem_dataset.datatypes import FoundFile, NameFacts, StemMetadata
from stem_dataset.files import sync_folder
from stem_dataset.music.describe import describe


@dataclass(frozen=True, slots=True)
class SameBytes:
    """The rows of files with the same bytes, by id."""

    any_id: str  # the newest; '': there is none
    gone: list[str]  # those whose own file is gone, the oldest last


def renamed(stem: StemMetadata, found: FoundFile, names: NameFacts) -> StemMetadata:
    """Return the row of a file that has the same bytes as `stem`'s: what depends on names is judged by its own."""
    former = json.loads(stem.features)
    description = describe(names, former, stem.duration_s)
    category, features = description.category, description.features
    if names.category is None and former["category_source"] == "clap":
        category, features = stem.category, {**features, "category_source": "clap"}
    else:
        features["category_cosine"] = None
    return dataclasses.replace(
        stem,
        original_file=found.path,
        size_bytes=found.size_bytes,
        mtime_ns=found.mtime_ns,
        bpm=description.bpm,
        key=description.key,
        category=category,
        features=json.dumps(features),
    )


def link_wav(source: str, target: str, scratch_folder: Path) -> None:
    """Give the WAV `source` a second name, so that a copy costs no space and outlives it; where the file system knows
    no such links, or holds no more of them, copy it."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:  # of a killed run: the same bytes, by its name
        return
    except OSError:
        scratch_folder.mkdir(exist_ok=True)
        scratch = scratch_folder / os.path.basename(target)
        shutil.copyfile(source, scratch)
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(scratch, target)
    sync_folder(Path(target).parent)
