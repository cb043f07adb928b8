"""Databases with invented vectors, and the search command on them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from records import PROVENANCE, record
from search_dataset_sql import main
from stem_dataset.clap.checkpoints import CHECKPOINTS
from stem_dataset.clap.engine import key_of_text
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import Float32

PUBLISHED = next(iter(CHECKPOINTS.values()))
# Its texts are understood.
PUBLISHED_MODEL = f"{PUBLISHED.name}@{PUBLISHED.sha256[:12]}/f32/10s-max8"
STAND_IN_MODEL = "stand-in@0123456789ab/f32/10s-max8"


def direction(**parts: float) -> Float32:
    """Return a unit vector, (512,), that is made of named axes: `direction(x=3, y=4)` is (0.6, 0.8, 0, ...)."""
    vector = np.zeros(512)
    for axis, length in parts.items():
        vector["xyzuvw".index(axis)] = length
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def is_loop(value: bool | None) -> str:
    """Return `features` that say whether a stem is a loop."""
    return json.dumps({"is_loop": value})


@dataclass
class SearchedLibrary:
    """A database, the model cache of a user, and what the command prints."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    model: str = PUBLISHED_MODEL
    texts: dict[str, Float32] = field(default_factory=dict)

    @property
    def database(self) -> Path:
        return self.folder / "stems.db"

    @property
    def sidecar(self) -> Path:
        return self.folder / "stems.db.search"

    def add(self, original_file: str, vector: npt.ArrayLike | None = None, **columns: Any) -> None:
        """Add a row; `columns` are those of `record`."""
        if vector is not None:
            columns["clap_embedding"] = np.asarray(vector, "<f4").tobytes()
        columns.setdefault("embedding_model", self.model)
        with contextlib.closing(Database(self.database)) as database:
            database.insert([record(original_file, **columns)], PROVENANCE)

    def change(self, statement: str, *values: Any) -> None:
        """Change the database as a user may."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(statement, values)

    def understand(self, texts: Mapping[str, Float32]) -> None:
        """Keep the vectors of texts, as an earlier search does."""
        self.texts |= texts
        file = self.folder / "cache" / PUBLISHED.sha256[:12] / "texts.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **{key_of_text(text): vector for text, vector in self.texts.items()})

    def run(self, *flags: str, exit_code: int = 0) -> str:
        """Run the command, and return what it prints to stdout."""
        paths = ("--database", str(self.database), "--model-cache", str(self.folder / "cache"))
        self.capsys.readouterr()
        assert main([*flags, *paths]) == exit_code
        printed = self.capsys.readouterr()
        self.messages = printed.err
        return printed.out

    def json(self, *flags: str) -> list[dict[str, Any]]:
        """Return what the command finds."""
        found: list[dict[str, Any]] = json.loads(self.run(*flags, "--json"))
        return found

    def names(self, *flags: str) -> list[str]:
        """Return the file names that the command finds, the best first."""
        return [hit["file_name"] for hit in self.json(*flags)]


@pytest.fixture
def searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> SearchedLibrary:
    """An empty library whose model is a published one."""
    return SearchedLibrary(tmp_path, capsys)


def add_all(library: SearchedLibrary, names: Sequence[str], **columns: Any) -> None:
    """Add a row for each name, with the same columns."""
    for name in names:
        library.add(f"/music/{name}", **columns)
