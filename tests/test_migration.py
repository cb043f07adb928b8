"""A database of an older version of the program: migrated in one transaction, after a copy of it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audio_files
import prepare_dataset_sql as product
from audio_files import write_tone
from conftest import REPOSITORY, Workplace, use_quick_analysis
from prepare_dataset_sql import Database, Interrupted, RunStopped, main

SCHEMA_1 = """
CREATE TABLE stems (
  id              TEXT PRIMARY KEY,           -- sha256(original_file NUL sha256)[:16] at first import, then fixed
  original_file   TEXT NOT NULL UNIQUE,       -- absolute path, byte for byte as the file system has it
  path            TEXT,                       -- standardised WAV; NULL when none is written
  sha256          TEXT NOT NULL,              -- of the original's bytes
  samples_sha256  TEXT NOT NULL,              -- of the standardised samples, as 24-bit little-endian PCM
  size_bytes      INTEGER NOT NULL,
  mtime_ns        INTEGER NOT NULL,
  duration_s      REAL NOT NULL,
  sample_rate_hz  INTEGER NOT NULL,           -- of the original
  channels        INTEGER NOT NULL,           -- of the original
  bpm             REAL,                       -- NULL where there is none, never 0
  key             TEXT,                       -- 'C#m', 'F', …; NULL where there is none
  category        TEXT NOT NULL,
  tags            TEXT NOT NULL,              -- JSON array
  features        TEXT NOT NULL,              -- JSON object
  quality_ok      INTEGER NOT NULL CHECK (quality_ok IN (0, 1)),
  user_rating     INTEGER,
  imported_at     TEXT NOT NULL,              -- ISO 8601, UTC; the last time the row was written
  clap_embedding  BLOB NOT NULL CHECK (length(clap_embedding) = 2048),  -- little-endian float32
  embedding_model TEXT NOT NULL               -- '<checkpoint>@<sha256, 12 digits>/<precision>/<window rule>'
) STRICT;
-- The resume query reads this index alone; without it, it reads every row with its vector (4 kB a stem).
CREATE INDEX stems_resume ON stems (original_file, size_bytes, mtime_ns);
CREATE TABLE quarantined (
  original_file TEXT PRIMARY KEY, size_bytes INTEGER, mtime_ns INTEGER, quarantine_path TEXT,
  error TEXT NOT NULL, quarantined_at TEXT NOT NULL
) STRICT;
-- What --restore-quarantine keeps of a row until its file is imported again.
CREATE TABLE restored (original_file TEXT PRIMARY KEY, id TEXT NOT NULL, user_rating INTEGER) STRICT;
PRAGMA user_version = 1;
"""
MODEL = product.identify_weights("630k-audioset-best", product.ModelCache(Path())).embedding_model(8, "f32")
SIZE_AND_MTIME = (100, 1_700_000_000_123_456_789)


def make_schema_1(path: Path, originals: list[Path], in_wal: bool = False) -> None:
    """Make a database as version 1 left it; with `in_wal`, as it left it when killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(f"PRAGMA journal_mode = WAL; {SCHEMA_1}")
    vector = np.full(512, 512**-0.5, "<f4").tobytes()
    for number, original in enumerate(originals):
        size_and_mtime = (original.stat().st_size, original.stat().st_mtime_ns) if original.exists() else SIZE_AND_MTIME
        connection.execute(
            "INSERT INTO stems VALUES (?, ?, NULL, 's', 'ss', ?, ?, 1.5, 44100, 2, NULL, NULL, 'kick', '[]', '{}', 1,"
            " ?, ?, ?, ?)",
            (f"{number:016}", str(original), *size_and_mtime, number, f"2026-01-0{9 - number}", vector, MODEL),
        )
    if in_wal:
        beside = path.with_name("of_the_killed")
        beside.mkdir()
        for found in path.parent.glob(path.name + "*"):
            (beside / found.name).write_bytes(found.read_bytes())
        connection.close()
        for found in beside.iterdir():
            os.replace(found, path.with_name(found.name))
        beside.rmdir()
        assert path.with_name(path.name + "-wal").stat().st_size > 0
        assert path.stat().st_size < 10_000
    connection.close()


def content(path: Path, *tables: str) -> dict[str, list[tuple[Any, ...]]]:
    connection = sqlite3.connect(path)
    try:
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    finally:
        connection.close()


def version(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


@pytest.fixture
def old(workplace: Workplace) -> Workplace:
    """A workplace whose database is of schema 1, with rows of three files that need no WAV."""
    make_schema_1(workplace.database, [Path(f"/{number}.wav") for number in range(3)])
    return workplace


def make_schema_2(path: Path, originals: list[Path]) -> None:
    """Make a database as version 2 left it: with provenance, and no index but the resume query's."""
    make_schema_1(path, originals)
    connection = sqlite3.connect(path)
    connection.executescript(f"{product.MIGRATIONS[1]} PRAGMA user_version = 2;")
    connection.close()


SCHEMA_QUERY = "sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"


@pytest.mark.parametrize("make", [make_schema_1, make_schema_2])
def test_a_migrated_database_has_the_schema_of_a_new_one(
    make: Callable[[Path, list[Path]], None], workplace: Workplace, tmp_path: Path
) -> None:
    make(workplace.database, [Path("/0.wav")])
    Database(workplace.database).close()
    Database(tmp_path / "new.db").close()
    migrated, new = (content(path, SCHEMA_QUERY)[SCHEMA_QUERY] for path in (workplace.database, tmp_path / "new.db"))
    assert [(kind, name, sql) for kind, name, _, _, sql in migrated] == [
        (kind, name, sql) for kind, name, _, _, sql in new
    ]
    assert version(workplace.database) == version(tmp_path / "new.db") == product.SCHEMA_VERSION


def test_what_version_2_wrote_stays_and_is_only_indexed(workplace: Workplace) -> None:
    make_schema_2(workplace.database, [Path(f"/{number}.wav") for number in range(3)])
    tables = ("stems", "quarantined", "restored", "provenance")
    before, before_schema = content(workplace.database, *tables), content(workplace.database, SCHEMA_QUERY)
    Database(workplace.database).close()
    assert content(workplace.database, *tables) == before
    added = {row[1] for row in content(workplace.database, SCHEMA_QUERY)[SCHEMA_QUERY]}
    added -= {row[1] for row in before_schema[SCHEMA_QUERY]}
    assert added == {"stems_sha256", "stems_category_bpm", "stems_key_bpm"}
    copy = workplace.database.with_name("stems.db.bak-2")
    assert version(copy) == 2
    assert content(copy, *tables) == before


def test_a_migration_keeps_every_row_and_enters_what_version_1_wrote_with(old: Workplace) -> None:
    before = content(old.database, "stems", "quarantined", "restored")
    Database(old.database).close()
    assert content(old.database, "stems", "quarantined", "restored") == before
    assert old.rows("SELECT * FROM provenance") == [
        {
            "embedding_model": MODEL,
            "engine": "torch",
            "versions": "{}",
            "checkpoint": "630k-audioset-best",
            "checkpoint_sha256": product.CHECKPOINTS["630k-audioset-best"].sha256[:12],
            "architecture": None,
            "precision": "f32",
            "window_rule": "10s-max8",
            "reference_vector": None,
            "first_used_at": "2026-01-07",
        }
    ]


def test_a_database_without_rows_is_migrated_without_provenance(workplace: Workplace) -> None:
    make_schema_1(workplace.database, [])
    Database(workplace.database).close()
    assert workplace.rows("SELECT * FROM provenance") == []


@pytest.mark.parametrize("in_wal", [False, True], ids=["closed", "killed with rows in its WAL"])
def test_the_database_as_it_was_is_kept_beside_it(
    in_wal: bool, workplace: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    make_schema_1(workplace.database, [Path("/0.wav"), Path("/1.wav")], in_wal)
    with caplog.at_level("INFO"):
        Database(workplace.database).close()
    copy = workplace.database.with_name("stems.db.bak-1")
    assert f"its schema 1 becomes {product.SCHEMA_VERSION}; the database as it was is kept as {copy}" in caplog.text
    assert version(copy) == 1
    assert content(copy, "stems") == content(workplace.database, "stems")
    assert len(content(copy, "stems")["stems"]) == 2
    assert sorted(path.name for path in workplace.database.parent.iterdir()) == ["stems.db", "stems.db.bak-1"]
    assert copy.read_bytes()[18:20] == b"\1\1"  # no WAL: a copy is one file for whoever opens it


def test_a_copy_of_a_former_migration_is_not_overwritten(old: Workplace) -> None:
    copies = [old.database.with_name(f"stems.db.bak-1{tail}") for tail in ("", "~2", "~3")]
    copies[0].write_bytes(b"first")
    copies[1].symlink_to("nowhere")
    Database(old.database).close()
    assert copies[0].read_bytes() == b"first"
    assert copies[1].is_symlink()
    assert version(copies[2]) == 1


def test_what_is_up_to_date_is_not_copied(workplace: Workplace) -> None:
    workplace.database.parent.mkdir()
    Database(workplace.database).close()
    Database(workplace.database).close()
    assert [path.name for path in workplace.database.parent.iterdir()] == ["stems.db"]


def test_a_migration_that_fails_leaves_schema_1_whole(old: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(old.database, "stems")
    good = product.MIGRATIONS[1]
    monkeypatch.setitem(product.MIGRATIONS, 1, good + "INSERT INTO nowhere VALUES (1);\n")
    with pytest.raises(RunStopped, match="no such table: nowhere"):
        Database(old.database)
    assert version(old.database) == 1
    assert content(old.database, "stems") == before
    assert old.rows("SELECT name FROM sqlite_master WHERE name = 'provenance'") == []
    monkeypatch.setitem(product.MIGRATIONS, 1, good)
    Database(old.database).close()
    assert version(old.database) == product.SCHEMA_VERSION


def test_a_copy_that_is_interrupted_or_fails_leaves_schema_1_and_no_half_a_copy(
    old: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        Database(old.database, on_wait=interrupt)
    audio_files.fail_for(
        monkeypatch, os, "replace", OSError(28, "No space left"), old.database.with_name("stems.db.bak-1.unfinished")
    )
    with pytest.raises(OSError, match="No space left"):
        Database(old.database)
    assert version(old.database) == 1
    assert [path.name for path in old.database.parent.iterdir() if "bak" in path.name] == []


KILLED = """
import os, signal, sys
import prepare_dataset_sql as product
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "in the copy":
    product.COPIED_PAGES = 1
    product.Database(product.Path(sys.argv[1]), on_wait=kill)
product.MIGRATIONS[1] += "SELECT kill();\\n"
connect = product.sqlite3.connect
def connect_with_kill(*args, **options):
    connection = connect(*args, **options)
    connection.create_function("kill", 0, kill)
    return connection
product.sqlite3.connect = connect_with_kill
product.Database(product.Path(sys.argv[1]))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("moment", ["in the copy", "in the transaction"])
def test_a_killed_migration_is_done_again(moment: str, old: Workplace) -> None:
    before = content(old.database, "stems")
    command = [sys.executable, "-c", KILLED, str(old.database), moment]
    killed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert version(old.database) == 1
    assert content(old.database, "stems") == before
    Database(old.database).close()
    assert version(old.database) == product.SCHEMA_VERSION
    assert content(old.database, "stems") == before
    copies = ["stems.db.bak-1"] if moment == "in the copy" else ["stems.db.bak-1", "stems.db.bak-1~2"]
    assert sorted(path.name for path in old.database.parent.iterdir()) == ["stems.db", *copies]
    assert all(content(old.database.with_name(copy), "stems") == before for copy in copies)


def test_a_dry_run_reads_schema_1_and_writes_nothing(workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    known, new = (write_tone(workplace.input / name) for name in ("known.wav", "new.wav"))
    make_schema_1(workplace.database, [known])
    before = audio_files.tree(workplace.folder)
    assert main([*workplace.flags(), "--dry-run"]) == 0
    assert capsys.readouterr().out == f"{new}\n"
    assert audio_files.tree(workplace.folder) == before


def test_a_run_on_schema_1_goes_on_where_the_old_program_stopped(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio_files.use_inline_workers(monkeypatch)
    use_quick_analysis(monkeypatch)
    known = write_tone(workplace.input / "known.wav")
    write_tone(workplace.input / "new.wav", hz=700)
    make_schema_1(workplace.database, [known])
    (before,) = workplace.rows()
    summary = workplace.run()
    assert (summary.already_done, summary.inserted) == (1, 1)
    assert workplace.rows()[0] == before
    engines = workplace.rows("SELECT engine, embedding_model FROM provenance ORDER BY rowid")
    assert engines == [
        {"engine": "torch", "embedding_model": MODEL},
        {"engine": "fake/cpu", "embedding_model": MODEL},
    ]


TRIGGER = "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; INSERT INTO b VALUES (';'); END;"


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        (" \n", []),
        ("SELECT 1;", ["SELECT 1;"]),
        ("SELECT 1;SELECT 2;\n", ["SELECT 1;", "SELECT 2;"]),
        ("-- one; two;\nSELECT 1;\nSELECT 2;", ["-- one; two;\nSELECT 1;", "SELECT 2;"]),
        ("SELECT 1, -- one;\n 2;", ["SELECT 1, -- one;\n 2;"]),
        ("/* one;\n two; */ SELECT 1;", ["/* one;\n two; */ SELECT 1;"]),
        ("SELECT 1; -- done;", ["SELECT 1;"]),
        ("SELECT 1; /* done; */\n", ["SELECT 1;"]),
        ("-- nothing; at all", []),
        ("SELECT ';\n'; SELECT 'it''s;';", ["SELECT ';\n';", "SELECT 'it''s;';"]),
        ('SELECT ";", [;], `;`;', ['SELECT ";", [;], `;`;']),
        ("SELECT '--;'; SELECT 2;", ["SELECT '--;';", "SELECT 2;"]),
        (f"{TRIGGER}\nSELECT 1;", [TRIGGER, "SELECT 1;"]),
        (TRIGGER.replace("CREATE", "CREATE TEMP"), [TRIGGER.replace("CREATE", "CREATE TEMP")]),
    ],
)
def test_sql_statements(text: str, statements: list[str]) -> None:
    assert list(product.sql_statements(text)) == statements


@pytest.mark.parametrize(
    "text",
    ["SELECT 1", "SELECT 1; SELECT 2", "SELECT 1 -- ;", "SELECT ';", "SELECT 1; /* ;", TRIGGER.removesuffix(" END;")],
)
def test_sql_that_ends_within_a_statement_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ends within a statement or a comment"):
        list(product.sql_statements(text))


def test_a_migration_may_hold_a_trigger_and_comments_with_semicolons(
    old: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "-- a comment;\nCREATE TRIGGER t AFTER DELETE ON stems BEGIN\n  DELETE FROM restored;\n  SELECT 1;\nEND;\n"
    monkeypatch.setitem(product.MIGRATIONS, 1, product.MIGRATIONS[1] + more)
    Database(old.database).close()
    assert old.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'") == [{"name": "t"}]


def test_a_migration_that_lacks_its_end_leaves_schema_1_whole(old: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(product.MIGRATIONS, 1, product.MIGRATIONS[1] + "DELETE FROM restored")
    with pytest.raises(ValueError, match="add what is missing: 'DELETE FROM restored'"):
        Database(old.database)
    assert version(old.database) == 1
    assert old.rows("SELECT name FROM sqlite_master WHERE name = 'provenance'") == []
