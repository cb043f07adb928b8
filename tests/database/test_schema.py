"""Tables, columns and indexes."""

from __future__ import annotations

import sqlite3

import pytest

from records import STEMS, column, refused
from stem_dataset.database.schema import INSERTED_COLUMNS, SCHEMA_VERSION
from stem_dataset.database.stems import Database
from workplace import Workplace


def test_the_file_carries_the_schema_s_version_and_is_in_wal_mode(database: Database) -> None:
    assert column(database, "PRAGMA user_version") == [SCHEMA_VERSION]
    assert column(database, "PRAGMA journal_mode") == ["wal"]
    assert column(database, "PRAGMA synchronous") == [2]  # FULL


def test_the_statement_fills_every_column_but_the_user_s_own() -> None:
    assert [*INSERTED_COLUMNS, "user_rating"] == sorted(
        (name for name, *_ in STEMS), key=[*INSERTED_COLUMNS, "user_rating"].index
    )


def test_a_newer_schema_is_refused_and_unchanged(workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    workplace.database.parent.mkdir()
    database = Database(workplace.database)
    database.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    message = refused(workplace, capsys)
    assert f"schema {SCHEMA_VERSION + 1}" in message
    assert f"up to {SCHEMA_VERSION}" in message


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION])
def test_another_program_s_database_is_refused_and_unchanged(
    version: int, workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Many programs count their schemas from 1 as we do: the version alone does not tell ours."""
    workplace.database.parent.mkdir()
    other = sqlite3.connect(workplace.database)
    other.executescript(f"CREATE TABLE bookmarks (url TEXT); PRAGMA user_version = {version};")
    other.close()
    assert "another program" in refused(workplace, capsys)
