"""The database: its schema, its transactions, what is refused, and what a lock or a full disk costs."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import audio_files
from audio_files import write_text, write_tone
from conftest import REPOSITORY, Workplace
from fake_clap import FakeClap
from patching import replace_name
from prepare_dataset_sql import DatasetPreparer, main
from stem_dataset.clap.checkpoints import CHECKPOINTS
from stem_dataset.database.connection import known_files
from stem_dataset.database.schema import SCHEMA_VERSION, STEM_COLUMNS
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import Provenance, QuarantineEntry, StemMetadata, StemRecord, text_of, utc_now
from stem_dataset.errors import RunStopped, UsageError
from stem_dataset.output_folders import stem_id_of
from vectors import assert_same_vectors

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not Unicode")


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers' part run in this process, within reach of a test's faults."""
    audio_files.use_inline_workers(monkeypatch)


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


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "stems.db")


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
]
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


def test_the_file_carries_the_schema_s_version_and_is_in_wal_mode(database: Database) -> None:
    assert column(database, "PRAGMA user_version") == [SCHEMA_VERSION]
    assert column(database, "PRAGMA journal_mode") == ["wal"]
    assert column(database, "PRAGMA synchronous") == [2]  # FULL


def test_the_statement_fills_every_column_but_the_user_s_own() -> None:
    assert [*STEM_COLUMNS, "user_rating"] == sorted(
        (name for name, *_ in STEMS), key=[*STEM_COLUMNS, "user_rating"].index
    )


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


def plan_of(database: Database, query: str, values: Sequence[Any] = ()) -> str:
    return "; ".join(row[3] for row in database.connection.execute(f"EXPLAIN QUERY PLAN {query}", values))


def statements_of(database: Database, ask: Callable[[], object]) -> list[str]:
    """Return what `ask` has the database do."""
    statements: list[str] = []
    database.connection.set_trace_callback(statements.append)
    ask()
    database.connection.set_trace_callback(None)
    return statements


def test_resume_query_reads_an_index_alone(database: Database) -> None:
    statement, _ = statements_of(database, lambda: known_files(database.connection))  # the other: the few quarantined
    assert plan_of(database, statement) == "SCAN stems USING COVERING INDEX stems_resume"


README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
KICKS, DARK_KICKS, LOOPS, TO_LISTEN_TO = re.findall(r"```sql\n([^`]+)```", README)
(NEIGHBOURS,) = re.findall(r'db\.execute\("(.+?)"\)', README)


@pytest.mark.parametrize(
    ("query", "plan"),
    [
        (KICKS, "SEARCH stems USING INDEX stems_category_bpm (category=?)"),
        (DARK_KICKS, "SEARCH stems USING INDEX stems_category_bpm (category=?)"),
        (LOOPS, "SEARCH stems USING INDEX stems_key_bpm (key=? AND bpm>? AND bpm<?)"),
        (NEIGHBOURS, "SCAN stems USING INDEX"),  # all vectors, in order
        (TO_LISTEN_TO, "SCAN stems;"),  # what was judged of every stem: no index knows it
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


def test_there_is_no_index_that_no_query_needs(database: Database) -> None:
    resume, _ = statements_of(database, lambda: known_files(database.connection))
    (copies,) = statements_of(database, lambda: database.rows_of("0" * 64))
    plans = " ".join(plan_of(database, query) for query in (resume, copies, KICKS, DARK_KICKS, LOOPS))
    own = column(database, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    assert len(own) == 4
    assert [name for name in own if name not in plans.split()] == []


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
    assert statements[-1] == "COMMIT"
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
    kept |= {"quality_ok", "embedding_model"}
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
