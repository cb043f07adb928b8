"""Ratings and corrections: in the database, in its view, and in the next search, without another copy."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libraries import SearchedLibrary, direction
from patching import replace_name, value_of
from records import PROVENANCE, record
from stem_dataset.database.stems import Database
from stem_dataset.errors import RunStopped, UsageError
from stem_dataset.search.owner_changes import DatabaseLocked, OwnerChanges
from stem_dataset.search.sidecar import SHOWN_COLUMNS, lock_if_free, open_sidecar
from workplace import REPOSITORY

NAMES = ["a kick.wav", "b.wav", "c.wav"]


@pytest.fixture
def owned(searched: SearchedLibrary) -> SearchedLibrary:
    """Three stems, and their sidecar."""
    for name in NAMES:
        searched.add(f"/music/{name}", bpm=120.0, tags='["dark", "warm"]', id=name[0])
    searched.run()
    return searched


def files_of(library: SearchedLibrary) -> set[str]:
    """Return the files of the sidecar that come and go."""
    return {path.name for path in library.sidecar.glob("*-*.*")}


def view_of(library: SearchedLibrary, stem_id: str) -> dict[str, Any]:
    """Return the row of a stem in the view `library`."""
    with contextlib.closing(sqlite3.connect(library.database)) as connection:
        connection.row_factory = sqlite3.Row
        return dict(connection.execute("SELECT * FROM library WHERE id = ?", (stem_id,)).fetchone())


def tables_of(library: SearchedLibrary) -> list[Any]:
    """Return all rows of the sidecar, with what full-text search says of a few words."""
    with open_sidecar(library.database, lambda *_: None) as sidecar:
        rows = sidecar.connection.execute(f"SELECT {', '.join(SHOWN_COLUMNS)} FROM stems ORDER BY position").fetchall()
        found = "SELECT rowid, round(bm25(names), 9) FROM names WHERE names MATCH ? ORDER BY rowid"
        words = [
            sidecar.connection.execute(found, (word,)).fetchall() for word in ("dark", "warm", "bright", "kick", "a")
        ]
    return [rows, words]


def test_a_rating_is_in_the_database_and_in_the_next_search_without_another_copy(owned: SearchedLibrary) -> None:
    made = files_of(owned)
    OwnerChanges(owned.database).rate("b", 4)
    assert view_of(owned, "b")["user_rating"] == 4
    assert owned.names("--rating", "3") == ["b.wav"]
    OwnerChanges(owned.database).rate("b", None)
    assert view_of(owned, "b")["user_rating"] is None
    assert owned.names("--rating", "0") == []
    assert files_of(owned) == made


def test_corrections_are_in_the_view_and_in_the_next_search_without_another_copy(owned: SearchedLibrary) -> None:
    owned.understand({"bright": direction(x=1)})
    made = files_of(owned)
    changes = OwnerChanges(owned.database)
    changes.correct("b", "bpm", 87)
    changes.correct("b", "key", "bb minor")
    changes.correct("b", "category", " snare ")
    changes.correct("b", "tags", ["bright", "größer", "bright"])
    row = view_of(owned, "b")
    assert (row["bpm"], row["key"], row["category"], row["tags"]) == (87.0, "A#m", "snare", '["bright", "größer"]')
    assert sorted(row["corrected"].split()) == ["bpm", "category", "key", "tags"]
    for flags in (["--bpm", "87"], ["--key", "A#m"], ["--category", "snare"], ["bright"]):
        assert owned.names(*flags, "--top", "1") == ["b.wav"]
    assert files_of(owned) == made


def test_a_correction_may_say_that_there_is_no_tempo_and_may_be_removed(owned: SearchedLibrary) -> None:
    made = files_of(owned)
    changes = OwnerChanges(owned.database)
    changes.correct("b", "bpm", None)
    assert (view_of(owned, "b")["bpm"], view_of(owned, "b")["corrected"]) == (None, "bpm")
    assert owned.names("--bpm", "120") == ["a kick.wav", "c.wav"]
    changes.uncorrect("b", "bpm")
    assert (view_of(owned, "b")["bpm"], view_of(owned, "b")["corrected"]) == (120.0, None)
    assert owned.names("--bpm", "120") == NAMES
    assert files_of(owned) == made


def test_a_patched_sidecar_is_the_same_as_a_new_one(owned: SearchedLibrary) -> None:
    changes = OwnerChanges(owned.database)
    changes.correct("a", "tags", ["bright", "warm"])
    changes.correct("c", "tags", [])
    changes.correct("a", "category", "Bässe")
    changes.correct("a", "tags", ["dark", "dark kick"])
    changes.uncorrect("c", "tags")
    changes.rate("a", 5)
    made, patched = files_of(owned), tables_of(owned)
    assert files_of(owned) == made
    (owned.sidecar / "card.json").unlink()
    assert tables_of(owned) == patched
    assert files_of(owned) != made


def test_an_open_search_sees_a_change(owned: SearchedLibrary) -> None:
    with open_sidecar(owned.database, lambda *_: None) as sidecar:
        query = "SELECT user_rating FROM stems WHERE id = 'b'"
        assert sidecar.connection.execute(query).fetchone() == (None,)
        OwnerChanges(owned.database, sidecar.folder).rate("b", 2)
        assert sidecar.connection.execute(query).fetchone() == (2,)
        assert sidecar.is_current(owned.database)
        owned.change("UPDATE stems SET user_rating = 3")
        assert not sidecar.is_current(owned.database)


def test_a_change_while_a_preparer_is_at_work_needs_no_copy(owned: SearchedLibrary) -> None:
    with contextlib.closing(Database(owned.database)) as preparer:
        preparer.insert([record("/music/d.wav", id="d", embedding_model=owned.model)], PROVENANCE)
        assert owned.names() == [*NAMES, "d.wav"]
        made = files_of(owned)
        assert owned.database.with_name("stems.db-wal").stat().st_size
        OwnerChanges(owned.database).rate("d", 1)
        assert owned.names("--rating", "1") == ["d.wav"]
        assert files_of(owned) == made
        preparer.insert([record("/music/e.wav", id="e", embedding_model=owned.model)], PROVENANCE)
        assert owned.names() == [*NAMES, "d.wav", "e.wav"]
    assert {path.name for path in owned.folder.iterdir()} == {"stems.db", "stems.db.search"}
    assert owned.names("--rating", "1") == ["d.wav"]


def test_in_a_database_that_was_left_in_wal_mode_a_second_change_needs_no_copy(owned: SearchedLibrary) -> None:
    owned.change("PRAGMA journal_mode = WAL")
    OwnerChanges(owned.database).rate("a", 1)
    owned.run()
    made = files_of(owned)
    OwnerChanges(owned.database).rate("b", 1)
    assert owned.names("--rating", "1") == NAMES[:2]
    assert files_of(owned) == made


@pytest.mark.parametrize("step", ["card_if_current", "shown_columns", "patch_stem", "settled_stamp"])
def test_when_another_program_commits_meanwhile_the_sidecar_is_made_anew(
    owned: SearchedLibrary, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = files_of(owned)
    with contextlib.closing(sqlite3.connect(owned.database, timeout=0)) as other:
        replace_name(monkeypatch, step, after_a_commit_of(other, value_of(step), "UPDATE stems SET bpm = bpm + 1"))
        OwnerChanges(owned.database).rate("b", 4)
        monkeypatch.undo()
    # What the other changed is also found.
    assert owned.names("--rating", "4") == ["b.wav"]
    expected = 120 if step == "shown_columns" else 121  # within our transaction the other cannot write
    assert owned.names("--bpm", str(expected)) == NAMES
    assert (files_of(owned) == made) is (step == "shown_columns")


def after_a_commit_of(connection: sqlite3.Connection, call: Callable[..., Any], statement: str) -> Callable[..., Any]:
    """Return `call`, but with `statement` committed within it, just before it returns; the first time only."""
    statements = [statement]

    def wrapped(*arguments: Any) -> Any:
        result = call(*arguments)
        while statements:
            with contextlib.suppress(sqlite3.OperationalError), connection:
                connection.execute(statements.pop())
        return result

    return wrapped


@pytest.mark.parametrize("step", ["patch_stem", "settled_stamp", "write_card"])
def test_a_program_that_is_killed_on_the_way_leaves_a_sidecar_that_is_made_anew(
    owned: SearchedLibrary, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = files_of(owned)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        replace_name(patched, step, killed)
        with pytest.raises(KeyboardInterrupt):
            OwnerChanges(owned.database).rate("b", 4)
    assert owned.names("--rating", "4") == ["b.wav"]
    assert files_of(owned).isdisjoint(made)


def test_a_patch_that_was_killed_half_way_is_undone_by_an_open_search(owned: SearchedLibrary) -> None:
    owned.add("/music/big.wav", tags=f'["{"x" * 100_000}"]')
    with open_sidecar(owned.database, lambda *_: None) as sidecar:
        tables = sidecar.folder / sidecar.card["stems"]
        # The cache of a page makes SQLite write before the commit.
        killed = (
            "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN')\n"
            "c.execute('UPDATE stems SET category = ?, tags = tags || tags', ('spoilt',)); os._exit(0)"
        )
        subprocess.run([sys.executable, "-c", killed, str(tables)], check=True, timeout=60)
        assert tables.with_name(tables.name + "-journal").stat().st_size
        assert sidecar.connection.execute("SELECT DISTINCT category FROM stems").fetchall() == [("kick",)]


def test_two_programs_may_rate_at_the_same_time(owned: SearchedLibrary) -> None:
    made = files_of(owned)
    # On a busy machine, the lock may go to others for longer than a user waits.
    rating = (
        "import sys; from pathlib import Path; from stem_dataset.search import owner_changes\n"
        "owner_changes.HELD_SIDECAR_S = owner_changes.HELD_DATABASE_S = 100\n"
        "for rating in range(6): owner_changes.OwnerChanges(Path(sys.argv[1])).rate(sys.argv[2], rating)"
    )
    command = [sys.executable, "-c", rating, str(owned.database)]
    programs = [subprocess.Popen([*command, stem_id], cwd=REPOSITORY) for stem_id in "abc"]
    assert [program.wait(120) for program in programs] == [0, 0, 0]
    assert owned.names("--rating", "5") == NAMES
    assert files_of(owned) == made


def test_without_a_sidecar_a_change_makes_none(owned: SearchedLibrary) -> None:
    for path in owned.sidecar.iterdir():
        path.unlink()
    owned.sidecar.rmdir()
    OwnerChanges(owned.database).rate("b", 4)
    assert not owned.sidecar.exists()
    assert owned.names("--rating", "4") == ["b.wav"]


def test_while_a_search_makes_its_copy_a_change_is_written_and_found_later(
    owned: SearchedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "HELD_SIDECAR_S", 0.01)
    with lock_if_free(owned.sidecar, 0.01) as is_held:
        assert is_held
        OwnerChanges(owned.database).rate("b", 4)
    assert view_of(owned, "b")["user_rating"] == 4
    assert owned.names("--rating", "4") == ["b.wav"]


@pytest.mark.parametrize("rating", [-1, 6, 2.5, True, "3", [1]])
def test_a_wrong_rating_is_refused(owned: SearchedLibrary, rating: Any) -> None:
    with pytest.raises(UsageError, match="give a rating from 0 to 5"):
        OwnerChanges(owned.database).rate("b", rating)
    assert view_of(owned, "b")["user_rating"] is None


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        *[("bpm", bpm, "give a tempo") for bpm in (0, -1, float("nan"), float("inf"), "fast", True, [120], 10**400)],
        *[("key", key, "give a key") for key in ("H", "", "X#", 5, ["C"])],
        *[("category", category, "give a category") for category in (None, "", " ", 3, "a\nb", "a\0")],
        *[("tags", tags, "give a list of tags") for tags in (None, "dark", ["dark", ""], [1], {"dark": 1}, [["dark"]])],
        *[("user_rating", 3, "cannot be corrected"), ("id", None, "cannot be corrected"), ("", "x", "cannot be")],
    ],
)
def test_a_wrong_correction_is_refused(owned: SearchedLibrary, column: str, value: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        OwnerChanges(owned.database).correct("b", column, value)
    assert view_of(owned, "b")["corrected"] is None


def test_a_stem_that_is_not_there_is_refused_and_nothing_is_written(owned: SearchedLibrary) -> None:
    changes = OwnerChanges(owned.database)
    with pytest.raises(UsageError, match="no stem has the id x"):
        changes.rate("x", 1)
    with pytest.raises(UsageError, match="no stem has the id x"):
        changes.correct("x", "bpm", 90)
    with pytest.raises(UsageError, match="no stem has the id x"):
        changes.uncorrect("x", "key")
    with contextlib.closing(sqlite3.connect(owned.database)) as connection:
        assert connection.execute("SELECT * FROM corrections").fetchall() == []


def test_a_database_that_another_program_holds_for_long_is_a_clear_error(
    owned: SearchedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "HELD_DATABASE_S", 0.05)
    with contextlib.closing(sqlite3.connect(owned.database, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseLocked, match=r"another program has held the database for 0\.05 s"):
            OwnerChanges(owned.database).rate("b", 4)
        holder.execute("ROLLBACK")
        # A reader keeps a commit from its end.
        holder.execute("BEGIN")
        holder.execute("SELECT count(*) FROM stems").fetchone()
        with pytest.raises(DatabaseLocked, match="nothing was written"):
            OwnerChanges(owned.database).rate("b", 4)
    assert view_of(owned, "b")["user_rating"] is None


@contextlib.contextmanager
def without_a_journal(database: Path) -> Iterator[None]:
    """Keep SQLite from writing, as a folder that is not writable does, also for root."""
    journal = database.with_name(database.name + "-journal")
    journal.mkdir()
    yield
    journal.rmdir()


def test_a_database_that_cannot_be_written_is_a_clear_error(owned: SearchedLibrary) -> None:
    with (
        without_a_journal(owned.database),
        pytest.raises(RunStopped, match=r"nothing was written: .*, then try again"),
    ):
        OwnerChanges(owned.database).rate("b", 4)
    assert view_of(owned, "b")["user_rating"] is None


def test_a_database_that_is_gone_is_not_made_anew(owned: SearchedLibrary) -> None:
    changes = OwnerChanges(owned.database)
    owned.database.unlink()
    with pytest.raises(RunStopped, match="nothing was written"):
        changes.rate("b", 4)
    assert not owned.database.exists()
