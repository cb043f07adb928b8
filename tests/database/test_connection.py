"""Opening the SQLite file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from records import DARK_KICKS, KICKS, LOOPS, PROVENANCE, column, plan_of, record, statements_of
from stem_dataset.database.connection import known_files, open_beside_writers, open_read_only
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import QuarantineEntry, text_of
from stem_dataset.errors import RunStopped
from stem_dataset.output_folders import stem_id_of

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not Unicode")


def test_resume_query_reads_an_index_alone(database: Database) -> None:
    statement, _ = statements_of(database, lambda: known_files(database.connection))  # the other: the few quarantined
    assert plan_of(database, statement) == "SCAN stems USING COVERING INDEX stems_resume"


def test_there_is_no_index_that_no_query_needs(database: Database) -> None:
    resume, _ = statements_of(database, lambda: known_files(database.connection))
    (copies,) = statements_of(database, lambda: database.rows_of("0" * 64))
    plans = " ".join(plan_of(database, query) for query in (resume, copies, KICKS, DARK_KICKS, LOOPS))
    own = column(database, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    assert len(own) == 4
    assert [name for name in own if name not in plans.split()] == []


def test_a_verdict_and_the_row_it_drops_are_one_transaction(database: Database, tmp_path: Path) -> None:
    wav = tmp_path / "a.wav"
    database.insert([record("/a.wav", path=str(wav))], PROVENANCE)
    entry: dict[str, Any] = {
        "path": "/q/ERROR_X_a.wav",
        "original_file": "/a.wav",
        "error": {"type": "X", "message": "lone \udcff surrogate", "traceback": ""},
        "size_bytes": 1,
        "mtime_ns": 2,
        "sha256": "",
        "run_id": "",
    }
    with pytest.raises(RunStopped, match="NOT NULL"):
        database.enter_quarantined(QuarantineEntry(**entry, quarantined_at=None))  # type: ignore[arg-type]
    assert column(database, "SELECT count(*) FROM stems") == [1]
    assert database.enter_quarantined(QuarantineEntry(**entry, quarantined_at="now")) == wav
    assert column(database, "SELECT count(*) FROM stems") == [0]
    assert known_files(database.connection).quarantined == {("/a.wav", 1, 2)}
    assert column(database, "SELECT error FROM quarantined") == ["X: lone \\udcff surrogate"]


@needs_linux
def test_paths_are_stored_as_the_bytes_of_the_file_system(database: Database) -> None:
    names = [b"/caf\xe9.wav", b"/\xff\x80.wav", "/caf\u00e9.wav".encode(), "/cafe\u0301.wav".encode(), b"/a\nb.wav"]
    paths = [os.fsdecode(name) for name in names]
    database.insert([record(path, path=path + "x") for path in paths], PROVENANCE)
    reader = sqlite3.connect(database.path)
    reader.text_factory = bytes
    stored = reader.execute("SELECT original_file, path, typeof(original_file) FROM stems ORDER BY rowid").fetchall()
    reader.close()
    assert stored == [(name, name + b"x", b"text") for name in names]
    assert set(known_files(database.connection).imported) == set(paths)
    for path in paths:
        former = database.former_row(path)
        assert former is not None
        assert former.id == stem_id_of(path, "0" * 64)
    replaced = database.insert([record(path, path="/new.wav") for path in paths], PROVENANCE)
    assert replaced == [Path(path + "x") for path in paths]
    assert column(database, "SELECT count(*) FROM stems") == [5]
    assert text_of(names[0]) == paths[0]


def test_a_long_read_sees_one_state_and_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "stems.db"
    database = Database(path)
    database.insert([record("/kick.wav")], PROVENANCE)
    with contextlib.closing(open_beside_writers(path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM stems").fetchone() == (1,)
        database.insert([record("/snare.wav")], PROVENANCE)
        database.close()  # the run ends first
        assert reader.execute("SELECT count(*) FROM stems").fetchone() == (1,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM stems")
    assert list(tmp_path.iterdir()) == [path]
    with contextlib.closing(open_read_only(path)) as copied:
        assert copied.execute("SELECT count(*) FROM stems").fetchone() == (2,)
