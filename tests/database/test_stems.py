"""Rows, transactions, and what a user's queries cost."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import audio_files
from audio_files import write_text, write_tone
from fake_clap import FakeClap
from pages import DATABASE
from patching import replace_name
from prepare_dataset_sql import DatasetPreparer, main
from records import (
    DARK_KICKS,
    KICKS,
    LOOPS,
    PROVENANCE,
    STEMS,
    TO_LISTEN_TO,
    column,
    plan_of,
    record,
    refused,
    statements_of,
)
from stem_dataset.clap.checkpoints import CHECKPOINTS
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import StemRecord
from stem_dataset.errors import RunStopped, UsageError
from stem_dataset.output_folders import stem_id_of
from vectors import assert_same_vectors
from workplace import Workplace


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers' part run in this process, within reach of a test's faults."""
    audio_files.use_inline_workers(monkeypatch)


PROVENANCE_COLUMNS = [
    ("embedding_model", "TEXT", 1, 1),
    ("engine", "TEXT", 1, 2),
    ("versions", "TEXT", 1, 3),
    ("checkpoint", "TEXT", 1, 0),
    ("checkpoint_sha256", "TEXT", 1, 0),
    ("architecture", "TEXT", 0, 0),
    ("precision", "TEXT", 1, 0),
    ("window_rule", "TEXT", 1, 0),
    ("reference_vector", "BLOB", 0, 0),
    ("first_used_at", "TEXT", 1, 0),
]


QUARANTINED = [
    ("original_file", "TEXT", 1, 1),
    ("size_bytes", "INTEGER", 0, 0),
    ("mtime_ns", "INTEGER", 0, 0),
    ("quarantine_path", "TEXT", 0, 0),
    ("error", "TEXT", 1, 0),
    ("quarantined_at", "TEXT", 1, 0),
]


@pytest.mark.parametrize(
    ("table", "expected"), [("stems", STEMS), ("quarantined", QUARANTINED), ("provenance", PROVENANCE_COLUMNS)]
)
def test_tables_are_those_of_the_design(
    table: str, expected: list[tuple[str, str, int, int]], database: Database
) -> None:
    info = database.connection.execute(f"PRAGMA table_info({table})").fetchall()
    assert [(name, type_, not_null, key) for _, name, type_, not_null, _, key in info] == expected
    strict = dict(database.connection.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'"))
    assert strict[table] == 1


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"quality_ok": 2}, "CHECK"),
        ({"quality_ok": None}, "NOT NULL"),
        ({"clap_embedding": b"\0" * 2_047}, "CHECK"),
        ({"clap_embedding": b"\0" * 4_096}, "CHECK"),
        ({"clap_embedding": b""}, "CHECK"),
        ({"clap_embedding": "x" * 2_048}, "BLOB"),
        ({"clap_embedding": None}, "NOT NULL"),
        ({"bpm": "fast"}, "REAL"),
        ({"duration_s": None}, "NOT NULL"),
        ({"size_bytes": 1.5}, "INTEGER"),
        ({"category": b"kick"}, "TEXT"),
        ({"category": None}, "NOT NULL"),
        ({"embedding_model": None}, "NOT NULL"),
        ({"samples_sha256": None}, "NOT NULL"),
    ],
    ids=lambda value: "=".join(map(str, *value.items()))[:40] if isinstance(value, dict) else value,
)
def test_constraints_bite(change: dict[str, Any], rule: str, database: Database) -> None:
    with pytest.raises(RunStopped, match=rule):
        database.insert([record("/a.wav", **change)], PROVENANCE)
    assert column(database, "SELECT count(*) FROM stems") == [0]


def test_two_rows_never_share_an_original_or_an_id(database: Database) -> None:
    database.insert([record("/a.wav"), record("/b.wav"), record("/a.wav", size_bytes=101)], PROVENANCE)
    assert column(database, "SELECT size_bytes FROM stems ORDER BY original_file") == [101, 100]
    with pytest.raises(RunStopped, match="UNIQUE"):
        database.insert([record("/c.wav", id=stem_id_of("/a.wav", "0" * 64))], PROVENANCE)


VIEW = "CO-ROUTINE corrected_stems; COMPOUND QUERY; LEFT-MOST SUBQUERY; "  # the second part: the corrected stems
(NEIGHBOURS,) = re.findall(r'db\.execute\("(.+?)"\)', DATABASE)


@pytest.mark.parametrize(
    ("query", "plan"),
    [
        (KICKS, VIEW + "SEARCH stems USING INDEX stems_category_bpm (category=?)"),
        (DARK_KICKS, VIEW + "SEARCH stems USING INDEX stems_category_bpm (category=?)"),
        (LOOPS, VIEW + "SEARCH stems USING INDEX stems_key_bpm (key=? AND bpm>? AND bpm<?)"),
        (NEIGHBOURS, "SCAN stems USING INDEX"),  # all vectors, in order
        (TO_LISTEN_TO, VIEW + "SCAN stems;"),  # what was judged of every stem: no index knows it
    ],
    ids=["kicks", "dark kicks", "loops", "neighbours", "to listen to"],
)
def test_the_readme_s_queries_read_no_more_rows_than_they_must(query: str, plan: str, database: Database) -> None:
    assert plan_of(database, query).startswith(plan)


def test_a_category_at_a_tempo_is_found_by_an_index(database: Database) -> None:
    plan = plan_of(database, "SELECT * FROM stems WHERE category = 'drum_loop' AND bpm BETWEEN 124 AND 128")
    assert plan == "SEARCH stems USING INDEX stems_category_bpm (category=? AND bpm>? AND bpm<?)"


def test_rows_with_the_bytes_of_a_file_are_found_by_an_index_that_brings_them_in_order(database: Database) -> None:
    (statement,) = statements_of(database, lambda: database.rows_of("0" * 64))
    assert plan_of(database, statement) == "SEARCH stems USING INDEX stems_sha256 (sha256=?)"


# -- transactions -----------------------------------------------------------------------------------------------------


def preparer_with(place: Workplace, records: list[StemRecord]) -> DatasetPreparer:
    """Return a preparer with an open database that has found the files of `records`."""
    preparer = DatasetPreparer(place.config(), show_progress=False)
    preparer.database = Database(place.folder / "stems.db")
    preparer.session.provenance = PROVENANCE
    preparer.unsettled = {one.metadata.original_file for one in records}
    preparer.summary.found = len(records)
    return preparer


def test_insert_meta_writes_a_whole_batch_or_nothing(workplace: Workplace) -> None:
    batch = [record(f"/{number}.wav") for number in range(5)]
    boom = [*batch[:3], record("/3.wav", clap_embedding=b"boom"), *batch[4:]]
    preparer = preparer_with(workplace, batch)
    with pytest.raises(RunStopped, match="CHECK"):
        preparer._insert_meta(boom)
    assert column(preparer.database, "SELECT count(*) FROM stems") == [0]
    assert preparer.summary.inserted == 0
    assert len(preparer.unsettled) == 5
    preparer._insert_meta(batch)  # the connection is not left within a transaction
    assert column(preparer.database, "SELECT count(*) FROM stems") == [5]
    assert preparer.summary.inserted == 5
    assert preparer.unsettled == set()


def test_insert_meta_is_one_transaction_seen_by_others_at_once(workplace: Workplace) -> None:
    batch = [record(f"/{number}.wav") for number in range(5)]
    preparer = preparer_with(workplace, batch)
    statements: list[str] = []
    preparer.database.connection.set_trace_callback(statements.append)
    preparer._insert_meta(batch)
    assert [text for text in statements if text.split()[0] in ("BEGIN", "COMMIT", "ROLLBACK")] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]
    assert next(text for text in statements if not text.startswith("SELECT")) == "BEGIN IMMEDIATE"
    assert [text for text in statements if "checkpoint" not in text][-1] == "COMMIT"
    other = sqlite3.connect(workplace.folder / "stems.db")
    assert other.execute("SELECT count(*) FROM stems").fetchone() == (5,)
    other.close()


def test_a_failed_batch_leaves_the_rows_it_would_have_replaced(workplace: Workplace) -> None:
    old = [record("/a.wav"), record("/b.wav")]
    preparer = preparer_with(workplace, old)
    preparer._insert_meta(old)
    before = preparer.database.connection.execute("SELECT * FROM stems").fetchall()
    with pytest.raises(RunStopped):
        preparer._insert_meta([record("/a.wav", size_bytes=7), record("/b.wav", clap_embedding=b"boom")])
    assert preparer.database.connection.execute("SELECT * FROM stems").fetchall() == before


# -- rows over time ---------------------------------------------------------------------------------------------------


def test_a_replaced_file_keeps_id_and_rating_and_changes_all_else(workplace: Workplace, inline: None) -> None:
    path = write_tone(workplace.input / "kick.wav", hz=300, seconds=0.05)
    write_tone(workplace.input / "same.wav", hz=400)
    workplace.run()
    connection = sqlite3.connect(workplace.database)
    connection.execute("UPDATE stems SET user_rating = 5 WHERE original_file LIKE '%kick.wav'")
    connection.commit()
    connection.close()
    before, same = workplace.rows()

    write_tone(path, hz=900, seconds=0.1)
    summary = workplace.run()
    assert (summary.already_done, summary.inserted) == (1, 1)
    after, still_same = workplace.rows()
    assert still_same == same
    kept = {"id", "original_file", "user_rating", "sample_rate_hz", "channels", "bpm", "key", "category"}
    kept |= {"quality_ok", "embedding_model", "path_text", "inode"}
    assert {name for name in before if before[name] == after[name]} == kept
    assert after["user_rating"] == 5
    assert after["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not Path(before["path"]).exists()
    assert Path(after["path"]).is_file()
    assert sorted(map(str, workplace.wavs.rglob("*.wav"))) == sorted([after["path"], same["path"]])


def test_a_file_that_was_only_touched_keeps_its_wav(workplace: Workplace, inline: None) -> None:
    path = write_tone(workplace.input / "kick.wav")
    workplace.run()
    (before,) = workplace.rows()
    os.utime(path, ns=(1, 1_600_000_000_000_000_000))
    assert workplace.run().inserted == 1
    (after,) = workplace.rows()
    assert {name for name in before if before[name] != after[name]} == {"mtime_ns", "imported_at"}
    assert Path(after["path"]).is_file()


def test_a_vector_read_back_is_its_row_s_512_float32_of_unit_length(workplace: Workplace, inline: None) -> None:
    for number in range(6):
        write_tone(workplace.input / f"{number}.wav", hz=200 + 150 * number, seconds=0.2 + 0.05 * number)
    clap = FakeClap()
    workplace.run(clap, batch_windows=4)
    assert sum(clap.call_sizes) == 6
    rows = workplace.rows()
    for row in rows:
        vector = np.frombuffer(row["clap_embedding"], "<f4")
        assert vector.shape == (512,)
        assert abs(float(np.linalg.norm(vector.astype(np.float64))) - 1) < 1e-3
        with open(row["path"], "rb") as file:
            samples, _ = soundfile.read(file, dtype="float32")
        # Its own, from the WAV that its row names. What it was made from was rounded to 16 bits: noise of 1/30,000.
        assert_same_vectors([vector], FakeClap().get_audio_embedding_from_data([samples]))
    assert len({row["clap_embedding"] for row in rows}) == 6


@pytest.mark.parametrize(
    "content",
    [b"hello", b"RIFF" * 100, b"SQLite format 3\0" + b"\xff" * 200, "ä".encode() * 5_000],
    ids=["short", "audio", "header only", "text"],
)
def test_what_is_no_database_is_refused_and_unchanged(
    content: bytes, workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace.database.parent.mkdir()
    workplace.database.write_bytes(content)
    assert "not a SQLite database" in refused(workplace, capsys)


def test_a_folder_as_database_is_refused(workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    workplace.database.mkdir(parents=True)
    assert main(workplace.flags()) == 2
    assert str(workplace.database) in capsys.readouterr().err


def test_an_empty_file_becomes_a_database(workplace: Workplace, inline: None) -> None:
    workplace.database.parent.mkdir()
    workplace.database.touch()
    write_tone(workplace.input / "kick.wav")
    assert workplace.run().inserted == 1


def test_vectors_of_two_models_are_not_mixed(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tone(workplace.input / "a.wav", hz=300)
    first = workplace.run()
    write_tone(workplace.input / "b.wav", hz=400)
    write_text(workplace.input / "broken.wav")
    inputs, rows = audio_files.tree(workplace.input), workplace.rows()
    audio_files.use_fake_clap(monkeypatch)
    assert main([*workplace.flags(), "--checkpoint", "630k-best"]) == 2
    message = capsys.readouterr().err
    assert rows[0]["embedding_model"] in message
    assert f"630k-best@{CHECKPOINTS['630k-best'].sha256[:12]}/f32/10s-max8" in message
    with pytest.raises(UsageError, match=r"10s-max8.*10s-max3"):
        workplace.run(max_windows=3)
    assert audio_files.tree(workplace.input) == inputs
    assert workplace.rows() == rows
    assert first.inserted == 1
    assert main(workplace.flags()) == 0  # with the settings of the first


@pytest.mark.parametrize("output", ["database", "quarantine", "stems", "log_file"])
def test_an_output_folder_that_cannot_be_made_stops_the_run(
    output: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(workplace.input / "kick.wav")
    in_the_way = workplace.folder / "file"
    in_the_way.write_text("mine")
    flag = f"--{output.replace('_', '-')}"
    assert main([*workplace.flags(), flag, str(in_the_way / "sub" / "x")]) == 4
    assert str(in_the_way) in capsys.readouterr().err
    assert in_the_way.read_text() == "mine"
    assert (workplace.input / "kick.wav").exists()


# -- locks and full disks ---------------------------------------------------------------------------------------------


class LockingClap(FakeClap):
    """A model at whose first call another program takes the database, and gives it back at `release`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.other: sqlite3.Connection | None = None

    def get_audio_embedding_from_data(self, x: Sequence[Any]) -> Any:
        if self.other is None:
            self.other = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self.other.execute("BEGIN IMMEDIATE")
        return super().get_audio_embedding_from_data(x)

    def release(self) -> None:
        assert self.other is not None
        self.other.close()


def test_a_database_locked_for_ever_stops_the_run_and_the_next_completes(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_name(monkeypatch, "LOCKED_DATABASE_S", 1)
    for number in range(3):
        write_tone(workplace.input / f"{number}.wav", hz=300 + 100 * number)
    clap = LockingClap(workplace.database)
    audio_files.use_fake_clap(monkeypatch, clap)
    assert main(workplace.flags()) == 4  # locked in mid-run
    assert main(workplace.flags()) == 4  # locked from the beginning
    message = capsys.readouterr().err
    assert message.count(f"{workplace.database}: database is locked") == 2
    assert "fault of this program" not in message
    clap.release()
    assert workplace.rows() == []
    assert workplace.run().inserted == 3


def test_a_database_locked_for_a_while_is_waited_for(workplace: Workplace, inline: None) -> None:
    write_tone(workplace.input / "kick.wav")
    clap = LockingClap(workplace.database)
    releases: list[Callable[[], None]] = [clap.release]
    begin = clap.get_audio_embedding_from_data

    def then_release_later(x: Sequence[Any]) -> Any:
        vectors = begin(x)
        if releases:
            threading.Timer(0.7, releases.pop()).start()
        return vectors

    clap.get_audio_embedding_from_data = then_release_later  # type: ignore[method-assign]
    summary = workplace.run(clap)
    assert summary.inserted == 1
    assert summary.seconds > 0.7


def test_a_full_disk_at_a_commit_stops_the_run_and_the_next_completes(workplace: Workplace) -> None:
    for number in range(3):
        write_tone(workplace.input / f"{number}.wav", hz=300 + 100 * number)
    inputs = audio_files.tree(workplace.input)
    failed = workplace.execute(faults={"commit": "database or disk is full"})
    assert failed.returncode == 4
    assert f"{workplace.database}: database or disk is full" in failed.stderr
    assert "run again" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert workplace.rows() == []
    assert audio_files.tree(workplace.input) == inputs
    assert workplace.execute().returncode == 0
    assert workplace.originals() == ["0.wav", "1.wav", "2.wav"]


def test_a_database_broken_in_its_middle_stops_the_run_and_moves_nothing(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        write_tone(workplace.input / f"{number}.wav", hz=300 + 100 * number)
    workplace.run()
    with open(workplace.database, "rb+") as file:
        file.seek(4_096)
        file.write(b"\xff" * (workplace.database.stat().st_size - 4_096))
    write_text(workplace.input / "broken.wav")
    inputs = audio_files.tree(workplace.input)
    audio_files.use_fake_clap(monkeypatch)
    capsys.readouterr()
    assert main(workplace.flags()) in (2, 4)
    message = capsys.readouterr().err
    assert str(workplace.database) in message
    assert "fault of this program" not in message
    assert audio_files.tree(workplace.input) == inputs


def test_a_wav_of_a_replaced_row_that_cannot_be_removed_is_only_warned_about(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tone(workplace.input / "kick.wav", hz=300)
    workplace.run()
    (before,) = workplace.rows()
    write_tone(path, hz=400)
    fault = PermissionError(errno.EACCES, "Permission denied")
    audio_files.fail_for(monkeypatch, Path, "unlink", fault, Path(before["path"]))
    assert workplace.run().inserted == 1
    assert "cannot be removed: [Errno 13]" in caplog.text
