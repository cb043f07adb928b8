"""What the tests of database share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio_files import write_text
from pages import QUERIES
from prepare_dataset_sql import main
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import Provenance, StemMetadata, StemRecord, utc_now
from stem_dataset.output_folders import stem_id_of
from workplace import Workplace


def record(original_file: str, **changes: Any) -> StemRecord:
    """Return a row of an invented file; `changes` are columns."""
    values: dict[str, Any] = {
        "id": stem_id_of(original_file, "0" * 64),
        "original_file": original_file,
        "path": None,
        "sha256": "0" * 64,
        "samples_sha256": "1" * 64,
        "size_bytes": 100,
        "mtime_ns": 1_700_000_000_123_456_789,
        "duration_s": 1.5,
        "sample_rate_hz": 44_100,
        "channels": 2,
        "bpm": None,
        "key": None,
        "category": "kick",
        "tags": "[]",
        "features": "{}",
        "quality_ok": 1,
        "imported_at": utc_now(),
        "clap_embedding": np.full(512, 512**-0.5, "<f4").tobytes(),
        "embedding_model": "model@1/f32/10s-max8",
        **changes,
    }
    own = {name: values.pop(name) for name in ("imported_at", "clap_embedding", "embedding_model")}
    return StemRecord(StemMetadata(**values), **own)


PROVENANCE = Provenance(
    embedding_model="model@1/f32/10s-max8",
    engine="fake/cpu",
    versions="{}",
    checkpoint="model",
    checkpoint_sha256="1",
    architecture="HTSAT-tiny",
    precision="f32",
    window_rule="10s-max8",
    reference_vector=np.full(512, 512**-0.5, "<f4").tobytes(),
    first_used_at="2026-01-01T00:00:00.000000+00:00",
)


def column(database: Database, query: str) -> list[Any]:
    return [value for (value,) in database.connection.execute(query)]


def content_of(path: Path) -> dict[str, bytes]:
    """Return the bytes of a database and of what SQLite keeps beside it."""
    return {found.name: found.read_bytes() for found in path.parent.glob(path.name + "*")}


# -- the schema -------------------------------------------------------------------------------------------------------

STEMS = [
    # (name, type, NOT NULL, in the primary key), as in the design
    ("id", "TEXT", 1, 1),  # STRICT makes a primary key NOT NULL
    ("original_file", "TEXT", 1, 0),
    ("path", "TEXT", 0, 0),
    ("sha256", "TEXT", 1, 0),
    ("samples_sha256", "TEXT", 1, 0),
    ("size_bytes", "INTEGER", 1, 0),
    ("mtime_ns", "INTEGER", 1, 0),
    ("duration_s", "REAL", 1, 0),
    ("sample_rate_hz", "INTEGER", 1, 0),
    ("channels", "INTEGER", 1, 0),
    ("bpm", "REAL", 0, 0),
    ("key", "TEXT", 0, 0),
    ("category", "TEXT", 1, 0),
    ("tags", "TEXT", 1, 0),
    ("features", "TEXT", 1, 0),
    ("quality_ok", "INTEGER", 1, 0),
    ("user_rating", "INTEGER", 0, 0),
    ("imported_at", "TEXT", 1, 0),
    ("clap_embedding", "BLOB", 1, 0),
    ("embedding_model", "TEXT", 1, 0),
    ("path_text", "TEXT", 0, 0),
    ("inode", "INTEGER", 0, 0),
]


def plan_of(database: Database, query: str, values: Sequence[Any] = ()) -> str:
    return "; ".join(row[3] for row in database.connection.execute(f"EXPLAIN QUERY PLAN {query}", values))


def statements_of(database: Database, ask: Callable[[], object]) -> list[str]:
    """Return what `ask` has the database do."""
    statements: list[str] = []
    database.connection.set_trace_callback(statements.append)
    ask()
    database.connection.set_trace_callback(None)
    return statements


KICKS, DARK_KICKS, LOOPS, TO_LISTEN_TO = QUERIES


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(place: Workplace, capsys: pytest.CaptureFixture[str]) -> str:
    """Run on a database that must be refused, unchanged and before anything else is made; return the message."""
    write_text(place.input / "kick.wav")
    before = content_of(place.database)
    for flags in ([], ["--dry-run"], ["--restore-quarantine"]):
        assert main([*place.flags(), *flags]) == 2, flags
        assert content_of(place.database) == before
        assert not place.quarantine.exists()
        assert not place.log_file.exists()
    message = capsys.readouterr().err
    assert message.count(str(place.database)) == 3
    return message


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "stems.db")
