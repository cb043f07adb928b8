"""A database of an older version of the program: migrated in one transaction, after a copy of it."""

from __future__ import annotations

import ast
import contextlib
import os
import re
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
from audio_files import write_tone
from prepare_dataset_sql import main
from records import STEMS
from stem_dataset.clap.checkpoints import CHECKPOINTS, ModelCache, identify_weights
from stem_dataset.database import migrations
from stem_dataset.database.migrations import MIGRATIONS, sql_statements
from stem_dataset.database.schema import SCHEMA, SCHEMA_VERSION
from stem_dataset.database.stems import Database
from stem_dataset.errors import Interrupted, RunStopped
from workplace import REPOSITORY, Workplace, use_quick_analysis

SCHEMAS = REPOSITORY / "tests" / "database" / "schemas"  # each released schema, as its commit had it


def released(number: int) -> str:
    """Return the SQL text of a released schema."""
    return f"{(SCHEMAS / f'schema_{number}.sql').read_text(encoding='utf-8')} PRAGMA user_version = {number};"


MODEL = identify_weights("630k-audioset-best", ModelCache(Path())).embedding_model(8, "f32")
SIZE_AND_MTIME = (100, 1_700_000_000_123_456_789)


def make_schema_1(path: Path, originals: list[Path], in_wal: bool = False) -> None:
    """Make a database as version 1 left it; with `in_wal`, as it left it when killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(f"PRAGMA journal_mode = WAL; {released(1)}")
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


# Of `stems` up to version 3; version 4 adds two columns behind them.
COLUMNS_OF_VERSION_3 = ", ".join(name for name, *_ in STEMS[:20])


def content(path: Path, *tables: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of tables, of stems in the columns that every version has."""
    columns = {"stems": COLUMNS_OF_VERSION_3}
    connection = sqlite3.connect(path)
    try:
        return {
            table: connection.execute(f"SELECT {columns.get(table, '*')} FROM {table}").fetchall() for table in tables
        }
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
    connection.executescript(f"{MIGRATIONS[1]} PRAGMA user_version = 2;")
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
    assert [(kind, name, bare(sql)) for kind, name, _, _, sql in migrated] == [
        (kind, name, bare(sql)) for kind, name, _, _, sql in new
    ]
    assert version(workplace.database) == version(tmp_path / "new.db") == SCHEMA_VERSION


def test_what_version_2_wrote_stays_and_is_only_indexed(workplace: Workplace) -> None:
    make_schema_2(workplace.database, [Path(f"/{number}.wav") for number in range(3)])
    tables = ("stems", "quarantined", "restored", "provenance")
    before, before_schema = content(workplace.database, *tables), content(workplace.database, SCHEMA_QUERY)
    Database(workplace.database).close()
    assert content(workplace.database, *tables) == before
    added = {row[1] for row in content(workplace.database, SCHEMA_QUERY)[SCHEMA_QUERY]}
    added -= {row[1] for row in before_schema[SCHEMA_QUERY]}
    indexes = {"stems_sha256", "stems_category_bpm", "stems_key_bpm"}
    assert added == {*indexes, "corrections", "stems_corrected", "corrected_stems", "library", "folders"}
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
            "checkpoint_sha256": CHECKPOINTS["630k-audioset-best"].sha256[:12],
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
    assert f"its schema 1 becomes {SCHEMA_VERSION}; the database as it was is kept as {copy}" in caplog.text
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
    good = MIGRATIONS[1]
    monkeypatch.setitem(MIGRATIONS, 1, good + "INSERT INTO nowhere VALUES (1);\n")
    with pytest.raises(RunStopped, match="no such table: nowhere"):
        Database(old.database)
    assert version(old.database) == 1
    assert content(old.database, "stems") == before
    assert old.rows("SELECT name FROM sqlite_master WHERE name = 'provenance'") == []
    monkeypatch.setitem(MIGRATIONS, 1, good)
    Database(old.database).close()
    assert version(old.database) == SCHEMA_VERSION


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
from pathlib import Path
import sqlite3
from stem_dataset.database import connection, migrations, stems
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "in the copy":
    connection.COPIED_PAGES = 1
    stems.Database(Path(sys.argv[1]), on_wait=kill)
migrations.MIGRATIONS[1] += "SELECT kill();\\n"
connect = sqlite3.connect
def connect_with_kill(*args, **options):
    connection = connect(*args, **options)
    connection.create_function("kill", 0, kill)
    return connection
sqlite3.connect = connect_with_kill
stems.Database(Path(sys.argv[1]))
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
    assert version(old.database) == SCHEMA_VERSION
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
    assert workplace.rows()[0] == {**before, "path_text": None, "inode": None}
    engines = workplace.rows("SELECT engine, embedding_model FROM provenance ORDER BY rowid")
    assert engines == [
        {"engine": "torch", "embedding_model": MODEL},
        {"engine": "fake/cpu", "embedding_model": MODEL},
    ]


# -- every released schema ---------------------------------------------------------------------------------------------

VERSIONS = range(1, SCHEMA_VERSION + 1)
LATIN_1 = b"/old/\xe9t\xe9; -- kick.wav"  # no UTF-8; and a name may look like SQL
STRING_OR_COMMENT = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/", re.DOTALL)


def bare(sql: str) -> str:
    """Return SQL text without its comments, and with one blank for any number of them."""
    text = " ".join(STRING_OR_COMMENT.sub(lambda match: match[1] or " ", sql).split())
    return re.sub(r" (?=[,)])", "", text)  # ALTER TABLE puts a blank before the comma


def shape(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return all that makes up a database's schema: texts, columns, indexes, and which tables are strict."""
    texts = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    found: dict[str, Any] = {"texts": [(*names, sql and bare(sql)) for *names, sql in texts]}
    found["tables"] = sorted(connection.execute("PRAGMA table_list").fetchall())  # the last number is strictness
    for kind, name, *_ in texts:
        pragmas = ("table_xinfo", "index_list", "foreign_key_list") if kind == "table" else ("index_xinfo",)
        for pragma in pragmas:
            rows = connection.execute(f"PRAGMA {pragma}({name})").fetchall()
            # index_list numbers indexes in the order in which they were made, which no query depends on.
            found[f"{pragma} of {name}"] = sorted(row[1:] for row in rows) if pragma == "index_list" else rows
    return found


def shape_at(path: Path) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return shape(connection)


def shape_of(sql: str) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(sql)
        return shape(connection)


def raw_rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return what `query` finds, each TEXT as its bytes."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return connection.execute(query).fetchall()


def make_released(number: int, path: Path) -> None:
    """Make a database of a released schema with rows of each table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA journal_mode = WAL; {released(number)}")
        vector = np.full(512, 512**-0.5, "<f4").tobytes()
        for row, (name, rating) in enumerate([(LATIN_1, 5), ("/new/Amélie.wav".encode(), None)]):
            connection.execute(
                "INSERT INTO stems (id, original_file, path, sha256, samples_sha256, size_bytes, mtime_ns, duration_s,"
                " sample_rate_hz, channels, bpm, key, category, tags, features, quality_ok, user_rating, imported_at,"
                " clap_embedding, embedding_model) VALUES (?, CAST(? AS TEXT), CAST(? AS TEXT), 's', 'ss', ?, ?, 1.5,"
                " 44100, 2, 120.0, 'C#m', 'kick', '[]', '{}', 1, ?, ?, ?, ?)",
                (f"{row:016}", name, name, *SIZE_AND_MTIME, rating, f"2026-01-0{row + 1}", vector, MODEL),
            )
        connection.execute(
            "INSERT INTO quarantined (original_file, size_bytes, mtime_ns, quarantine_path, error, quarantined_at)"
            " VALUES (CAST(? AS TEXT), ?, ?, CAST(? AS TEXT), 'BrokenFile: no samples', '2026-01-03')",
            (b"/broken\xff.wav", *SIZE_AND_MTIME, b"/quarantine/broken\xff.wav"),
        )
        connection.execute(
            "INSERT INTO restored (original_file, id, user_rating) VALUES (CAST(? AS TEXT), '0000000000000009', 4)",
            (b"/restored\xfe.wav",),
        )
        if number > 1:
            connection.execute(
                "INSERT INTO provenance (embedding_model, engine, versions, checkpoint, checkpoint_sha256,"
                " architecture, precision, window_rule, reference_vector, first_used_at)"
                " VALUES (?, 'torch/cpu', '{}', 'mine', 'abc', 'HTSAT-tiny', 'f32', '10s-max8', ?, '2026-01-01')",
                (MODEL, vector),
            )


def test_each_schema_up_to_todays_is_stored_and_has_a_migration_to_the_next() -> None:
    assert {path.name for path in SCHEMAS.iterdir()} == {f"schema_{number}.sql" for number in VERSIONS}
    assert list(MIGRATIONS) == list(VERSIONS)[:-1]


def test_todays_schema_is_the_stored_one() -> None:
    """Who changes SCHEMA adds the next schema file and a migration to it: databases of this version are in use."""
    statements = [
        [bare(statement) for statement in sql_statements(sql)]
        for sql in (SCHEMA, (SCHEMAS / f"schema_{SCHEMA_VERSION}.sql").read_text(encoding="utf-8"))
    ]
    assert statements[0] == statements[1]
    assert shape_of(SCHEMA) == shape_of(released(SCHEMA_VERSION))


@pytest.mark.parametrize("number", VERSIONS[:-1])
def test_a_migration_makes_of_its_stored_schema_the_stored_next_one(number: int) -> None:
    assert shape_of(released(number) + MIGRATIONS[number]) == shape_of(released(number + 1))


def test_migrations_are_literal_text() -> None:
    """A name or an f-string among them would let a change of today's code rewrite what was released."""
    tree = ast.parse(Path(migrations.__file__).read_text(encoding="utf-8"))
    (value,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MIGRATIONS"
    ]
    assert ast.literal_eval(value) == MIGRATIONS


@pytest.mark.parametrize("number", VERSIONS)
def test_a_released_database_becomes_todays_with_its_rows(number: int, workplace: Workplace, tmp_path: Path) -> None:
    make_released(number, workplace.database)
    tables = ["stems", "quarantined", "restored", *(["provenance"] if number > 1 else [])]
    before = {table: raw_rows(workplace.database, f"SELECT * FROM {table}") for table in tables}
    assert before["stems"][0][1] == LATIN_1
    Database(workplace.database).close()
    Database(tmp_path / "new.db").close()
    assert shape_at(workplace.database) == shape_at(tmp_path / "new.db")
    assert version(workplace.database) == SCHEMA_VERSION
    now = {table: raw_rows(workplace.database, f"SELECT * FROM {table}") for table in tables}
    if number < 4:
        now["stems"] = [row[: len(STEMS) - 2] for row in now["stems"]]
    assert now == before
    assert raw_rows(workplace.database, "SELECT embedding_model, first_used_at FROM provenance") == [
        (MODEL.encode(), b"2026-01-01")
    ]
    copies = list(workplace.database.parent.glob("*.bak-*"))
    if number == SCHEMA_VERSION:
        assert copies == []
    else:
        assert copies == [workplace.database.with_name(f"stems.db.bak-{number}")]
        assert version(copies[0]) == number
        assert shape_at(copies[0]) == shape_of(released(number))
        assert {table: raw_rows(copies[0], f"SELECT * FROM {table}") for table in tables} == before


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
    assert list(sql_statements(text)) == statements


@pytest.mark.parametrize(
    "text",
    ["SELECT 1", "SELECT 1; SELECT 2", "SELECT 1 -- ;", "SELECT ';", "SELECT 1; /* ;", TRIGGER.removesuffix(" END;")],
)
def test_sql_that_ends_within_a_statement_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ends inside a statement or a comment"):
        list(sql_statements(text))


def test_a_migration_may_hold_a_trigger_and_comments_with_semicolons(
    old: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "-- a comment;\nCREATE TRIGGER t AFTER DELETE ON stems BEGIN\n  DELETE FROM restored;\n  SELECT 1;\nEND;\n"
    monkeypatch.setitem(MIGRATIONS, 1, MIGRATIONS[1] + more)
    Database(old.database).close()
    assert {"name": "t"} in old.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'")


def test_a_migration_that_lacks_its_end_leaves_schema_1_whole(old: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIGRATIONS, 1, MIGRATIONS[1] + "DELETE FROM restored")
    with pytest.raises(ValueError, match="complete it: 'DELETE FROM restored'"):
        Database(old.database)
    assert version(old.database) == 1
    assert old.rows("SELECT name FROM sqlite_master WHERE name = 'provenance'") == []
