"""Rows reach the main file during a run, and a run's end leaves one file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import audio_files
import demo
from audio_files import write_tone
from fake_clap import FakeClap
from patching import replace_name
from records import PROVENANCE, record
from stem_dataset.database import journal
from stem_dataset.database.journal import Journal
from stem_dataset.database.stems import Database
from stem_dataset.errors import RunStopped
from workplace import Workplace, obey_modes, wait_for_log

BATCHES = 5


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    audio_files.use_inline_workers(monkeypatch)


@pytest.fixture
def place(workplace: Workplace) -> Workplace:
    """As many stems as make five batches of two windows."""
    for number in range(2 * BATCHES):
        write_tone(workplace.input / f"{number}.wav", hz=200 + 100 * number)
    return workplace


def rows_of_a_plain_copy(database: Path) -> int:
    """Return the rows in the main file alone, as `cp stems.db elsewhere` takes them."""
    copy = database.with_name("copy.db")
    shutil.copyfile(database, copy)
    with closing(sqlite3.connect(copy)) as connection:
        count: int = connection.execute("SELECT count(*) FROM stems").fetchone()[0]
    for path in database.parent.glob("copy.db*"):
        path.unlink()
    return count


def rows_of(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        count: int = connection.execute("SELECT count(*) FROM stems").fetchone()[0]
    return count


def files_of(database: Path) -> list[str]:
    return sorted(path.name for path in database.parent.glob("stems.db*") if path.suffix != ".lock")


def is_one_file(database: Path) -> bool:
    """Whether the database is a single file in DELETE mode; file format: bytes 18 and 19 are 2 in WAL mode."""
    return files_of(database) == ["stems.db"] and database.read_bytes()[18:20] == b"\1\1"


class CopyingClap(FakeClap):
    """A model that at each call notes how many rows a plain copy has, and how many a reader sees."""

    def __init__(self, database: Path) -> None:
        super().__init__()
        self.database = database
        self.noted: list[tuple[int, int]] = []

    def get_audio_embedding_from_data(self, x: Sequence[Any]) -> Any:
        if files_of(self.database) != ["stems.db"]:
            self.noted.append((rows_of_a_plain_copy(self.database), rows_of(self.database)))
        return super().get_audio_embedding_from_data(x)


def test_after_each_batch_its_rows_are_in_the_main_file(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_name(monkeypatch, "PAUSE_PER_CHECKPOINT", 0)
    clap = CopyingClap(place.database)
    place.run(clap, batch_windows=2)
    assert len(clap.noted) >= BATCHES
    assert max(seen for _, seen in clap.noted) >= 2 * BATCHES - 4
    assert [copied for copied, _ in clap.noted] == [seen for _, seen in clap.noted]


def test_a_killed_run_leaves_its_committed_rows_in_the_main_file(place: Workplace) -> None:
    with place.start("--batch-windows", "2", faults={"slow_s": 0.3}) as process:
        wait_for_log(place, "rows written")
        process.kill()
    seen = rows_of_a_plain_copy(place.database)
    assert seen >= 2
    assert place.run().already_done >= seen
    assert rows_of(place.database) == 2 * BATCHES


@pytest.mark.parametrize("files", [0, 2], ids=["nothing new", "rows written"])
def test_a_run_s_end_leaves_one_file_that_a_read_only_disk_can_hold(files: int, place: Workplace) -> None:
    place.run()
    place.change("PRAGMA journal_mode = WAL")  # as version 0.2.0 left it
    for number in range(files):
        write_tone(place.input / f"new {number}.wav", hz=3_000 + number)
    assert place.run().inserted == files
    assert is_one_file(place.database)
    assert rows_of_a_plain_copy(place.database) == 2 * BATCHES + files


needs_modes = pytest.mark.skipif(sys.platform != "linux", reason="takes from root what lets it pass by modes")


@needs_modes
def test_the_docs_snippet_reads_the_database_from_a_read_only_folder(place: Workplace) -> None:
    place.run()
    place.database.with_name("stems.db.lock").unlink(missing_ok=True)
    command = [sys.executable, "-c", demo.NEIGHBOURS.replace("processed_database/stems.db", str(place.database))]
    place.database.parent.chmod(0o555)
    place.database.chmod(0o444)
    try:
        result = subprocess.run(command, preexec_fn=obey_modes, capture_output=True, text=True, check=False)
    finally:
        place.database.parent.chmod(0o755)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 4


class BackingUpClap(CopyingClap):
    """A model that at each call makes the two backups that the docs recommend."""

    def get_audio_embedding_from_data(self, x: Sequence[Any]) -> Any:
        if files_of(self.database) != ["stems.db"]:
            copies = [self.database.with_name(name) for name in ("backup.db", "vacuumed.db")]
            with closing(sqlite3.connect(self.database)) as source, closing(sqlite3.connect(copies[0])) as target:
                source.backup(target)
                source.execute(f"VACUUM INTO '{copies[1]}'")
            self.noted += [(rows_of(copy), rows_of(self.database)) for copy in copies]
            for copy in copies:
                copy.unlink()
        return FakeClap.get_audio_embedding_from_data(self, x)


def test_the_backups_of_the_docs_are_complete_while_a_run_is_at_work(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "PAUSE_PER_CHECKPOINT", 1_000_000)  # rows stay in the WAL
    clap = BackingUpClap(place.database)
    place.run(clap, batch_windows=2)
    assert max(seen for _, seen in clap.noted) >= 2 * BATCHES - 4
    assert [copied for copied, _ in clap.noted] == [seen for _, seen in clap.noted]


def test_a_run_with_nothing_new_does_not_touch_the_file(place: Workplace) -> None:
    place.run()
    before = audio_files.tree(place.database.parent)["stems.db"]
    place.run()
    assert audio_files.tree(place.database.parent)["stems.db"] == before


def test_a_run_that_fails_leaves_one_file_too(place: Workplace) -> None:
    result = place.execute("--batch-windows", "2", faults={"commit": "database or disk is full"})
    assert result.returncode == 4
    assert is_one_file(place.database)


@pytest.fixture
def reader(place: Workplace) -> Iterator[sqlite3.Connection]:
    """Another program that has the database open, with four rows, and knows it in WAL mode."""
    place.run(limit=4)
    place.change("PRAGMA journal_mode = WAL")
    connection = sqlite3.connect(place.database, isolation_level=None)
    connection.execute("SELECT count(*) FROM stems").fetchone()
    yield connection
    connection.close()


def test_a_program_that_keeps_the_database_open_delays_the_single_file_to_the_next_run(
    place: Workplace, reader: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        place.run()
    assert "another program has the database open" in caplog.text
    assert rows_of_a_plain_copy(place.database) == 2 * BATCHES
    assert place.database.with_name("stems.db-wal").stat().st_size == 0
    caplog.clear()
    reader.close()
    with caplog.at_level("INFO"):
        assert place.run().already_done == 2 * BATCHES
    assert "was not closed" not in caplog.text  # an empty WAL is no sign of a kill
    assert is_one_file(place.database)


def test_a_reader_in_the_middle_of_a_query_neither_stops_the_run_nor_is_disturbed(
    place: Workplace, reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "PAUSE_PER_CHECKPOINT", 0)
    rows = reader.execute("SELECT original_file FROM stems")
    rows.fetchone()
    place.run(batch_windows=2)
    assert len(rows.fetchall()) == 3  # of the four that were there when the query began
    reader.close()
    assert rows_of(place.database) == 2 * BATCHES
    place.run()
    assert is_one_file(place.database)


# -- how often --------------------------------------------------------------------------------------------------------


class SlowDisk:
    """A connection on which each checkpoint takes `cost_s`, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost_s: float) -> None:
        self.now_s = 100.0
        self.cost_s = cost_s
        self.checkpoints: list[float] = []
        self.in_transaction = False
        monkeypatch.setattr(journal, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def execute(self, statement: str) -> SlowDisk:
        if "wal_checkpoint" in statement:
            self.checkpoints.append(self.now_s)
            self.now_s += self.cost_s
        return self

    def fetchone(self) -> tuple[Any, ...]:
        return (0, 3, 3) if self.checkpoints else ("wal",)


@pytest.mark.parametrize(("cost_s", "most"), [(0.01, 0.01), (0.1, 0.01), (0.9, 0.03), (1.5, 0.05)])
def test_checkpoints_take_a_small_share_of_the_time_and_come_within_30_seconds(
    cost_s: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch, cost_s)
    paced = Journal(disk)  # type: ignore[arg-type]
    for _ in range(10_000):
        disk.now_s += 0.05
        paced.committed()
    share = len(disk.checkpoints) * cost_s / (disk.now_s - 100)
    assert share < most
    pauses = [later - earlier for earlier, later in zip(disk.checkpoints, disk.checkpoints[1:], strict=False)]
    assert max(pauses) < 30 + cost_s + 0.1


def test_a_checkpoint_that_was_left_out_is_made_up_for_without_another_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch, 0.1)
    paced = Journal(disk)  # type: ignore[arg-type]
    paced.committed()
    paced.committed()
    assert len(disk.checkpoints) == 1
    disk.now_s += 10.1
    paced.checkpoint_if_due()
    paced.checkpoint_if_due()
    assert len(disk.checkpoints) == 2


def test_no_checkpoint_is_tried_within_a_transaction(tmp_path: Path) -> None:
    database = Database(tmp_path / "stems.db")
    database.insert([record("/a.wav")], PROVENANCE)
    database.journal.is_behind, database.journal._next_s = True, 0
    with database.transaction():
        database.journal.checkpoint_if_due()  # the bar's clock may ask at any time
    database.close()
    assert is_one_file(database.path)
    assert os.listdir(tmp_path) == ["stems.db"]


def test_a_disk_that_fails_at_a_checkpoint_is_the_machines(tmp_path: Path) -> None:
    def failing(sql: str) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    with closing(Database(tmp_path / "stems.db")) as database:
        database.insert([record("/a.wav")], PROVENANCE)
        connection, database.journal.is_behind = database.journal.connection, True
        database.journal._next_s = 0.0
        database.journal.connection = SimpleNamespace(execute=failing, in_transaction=False)  # type: ignore[assignment]
        with pytest.raises(RunStopped, match="its disk is full, failing or gone"):
            database.checkpoint_if_due()
        database.journal.connection = connection
