"""Read and write the rows of the database during a run."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sqlite3
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stem_dataset.database.connection import copy_database, remedy_for
from stem_dataset.database.damage import refuse_damaged_after_kill
from stem_dataset.database.journal import Journal
from stem_dataset.database.migrations import MIGRATIONS, sql_statements
from stem_dataset.database.schema import (
    COPY_PROVENANCE,
    ENTER_PROVENANCE,
    ENTER_QUARANTINED,
    GIVE_BACK_FORMER_ROW,
    INSERT_STEM,
    MODELS_AT_A_GLANCE,
    MOVE_ROW,
    OUTDATED,
    PROVENANCE_COLUMNS,
    REPLACE_VECTOR,
    SCHEMA,
    SCHEMA_VERSION,
    STEM_COLUMNS,
    STORED_COLUMNS,
    enter_path_texts,
    parameters_of,
)
from stem_dataset.datatypes import (
    FormerRow,
    FoundFile,
    NewVector,
    Provenance,
    QuarantineEntry,
    StemMetadata,
    StemRecord,
    StoredStem,
    path_text_of,
    storable,
    text_of,
)
from stem_dataset.errors import RunStopped
from stem_dataset.logs import log, printable
from stem_dataset.output_folders import stem_id_of
from stem_dataset.signals import TICK_S

# How long to wait for another program that holds the database.
LOCKED_DATABASE_S = 30.0

# Marks a moved row whose name-based columns are still those of the old name.
MOVED_MTIME_NS = -1
# Between two pages the program checks for Ctrl-C.
ROWS_PER_PAGE = 1_000


class Database:
    """The SQLite file of a run.

    Each write is one transaction, and SQLite's errors become `RunStopped`.
    """

    def __init__(self, path: Path, on_wait: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.on_wait = on_wait
        if sqlite3.sqlite_version_info < (3, 37):
            raise RunStopped(f"SQLite {sqlite3.sqlite_version} is too old: STRICT tables need 3.37; use a newer Python")
        with self.errors():
            refuse_damaged_after_kill(path, on_wait)
            self.connection = sqlite3.connect(path, timeout=TICK_S, isolation_level=None)
            self.connection.text_factory = text_of
            self.journal = Journal(self.connection)
            # A commit survives a power cut; it takes 0.6 ms.
            self.connection.execute("PRAGMA synchronous = FULL")
            # A cache of 16 MB is as fast as one of 256 MB: the system caches the file too.
            self.connection.execute("PRAGMA cache_size = -16384")
            # `Journal` decides when to checkpoint; this bounds the WAL (64 MB) within a large transaction.
            self.connection.execute("PRAGMA wal_autocheckpoint = 16000")
        self._bring_schema_up_to_date()

    def _bring_schema_up_to_date(self) -> None:
        """Create our tables, or copy and migrate an older database.

        All is done in one transaction.
        """
        with self.errors():
            if self.connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
                return
        with self.transaction() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version:
                copy = copy_database(self.path, f"{self.path.name}.bak-{version}", self.on_wait)
                text = "%s: its schema %d becomes %d; the database as it was is kept as %s"
                log.info(text, printable(self.path), version, SCHEMA_VERSION, printable(copy))
            steps = [MIGRATIONS[step] for step in range(version, SCHEMA_VERSION)] if version else [SCHEMA]
            for statement in itertools.chain.from_iterable(map(sql_statements, steps)):
                connection.execute(statement)
            if 0 < version < 4:
                enter_path_texts(connection)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the connection, and leave one file."""
        self.journal.end()
        self.connection.close()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors inside the `with` block into `RunStopped`."""
        try:
            yield
        except sqlite3.Error as error:
            text = f"{printable(self.path)}: {error}; what was committed stays: {remedy_for(error)}, then run again"
            raise RunStopped(text) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the `with` block writes, or nothing of it if it raises."""
        with self.errors():
            self._begin()
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                # Otherwise the next BEGIN would fail, and with it every later batch.
                self.connection.rollback()
                raise
            self.journal.committed()

    def checkpoint_if_due(self) -> None:
        """See `Journal.checkpoint_if_due`."""
        with self.errors():
            self.journal.checkpoint_if_due()

    def prepare_to_write(self) -> None:
        """Wait for a program that holds the database before files are decoded in vain."""
        with self.errors():
            self._begin()
            self.connection.rollback()

    def _begin(self) -> None:
        self.journal.begin(self._execute_when_free)
        self._execute_when_free("BEGIN IMMEDIATE")

    def _execute_when_free(self, statement: str) -> None:
        """Execute `statement`, and wait for a program that holds the database.

        Meanwhile `on_wait` moves the bar and checks for Ctrl-C.
        """
        deadline = time.monotonic() + LOCKED_DATABASE_S
        while True:
            try:
                self.connection.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
            self.on_wait()

    def _row(self, query: str, name: bytes) -> Any:
        with self.errors():
            return self.connection.execute(query, (name,)).fetchone()

    def other_models(self, embedding_model: str) -> list[str]:
        """Return the names of all other models of which rows have vectors.

        Normally a look at `provenance` is enough, with the first and the last row in case someone merged databases by
        hand. If it names another model, all rows are read, since no row may use that model any more.
        """
        with self.errors():
            listed = {model for (model,) in self.connection.execute(MODELS_AT_A_GLANCE)}
        if listed == {embedding_model}:
            return []
        return sorted(self.forget_unused_models().keys() - {embedding_model})

    def forget_unused_models(self) -> Counter[str]:
        """Delete the provenance of models that no row uses.

        Returns the number of rows of each of the others.
        """
        used = self._rows_by_model()
        with self.transaction() as connection:
            names = json.dumps(list(used))
            connection.execute(
                "DELETE FROM provenance WHERE embedding_model NOT IN (SELECT value FROM json_each(?))", (names,)
            )
        return used

    def _rows_by_model(self) -> Counter[str]:
        """Count the rows of each model.

        This reads the whole table (4 kB per stem).
        """
        return Counter(model for page in self._pages("embedding_model") for _, model in page)

    def _pages(self, columns: str) -> Iterator[list[Any]]:
        """Yield all stems, a page of rows at a time.

        Each row has the rowid before `columns`. Rows may be written between two pages. A single query over a million
        rows could not be interrupted; here `on_wait` checks for Ctrl-C after each page.
        """
        query = f"SELECT rowid, {columns} FROM stems WHERE rowid > ? ORDER BY rowid LIMIT {ROWS_PER_PAGE}"
        last = 0
        while True:
            with self.errors():
                page = self.connection.execute(query, (last,)).fetchall()
            if not page:
                return
            yield page
            last = page[-1][0]
            self.on_wait()

    def stems_of_other_models(self, embedding_model: str) -> Iterator[StoredStem]:
        """Yield the rows whose vectors are not of `embedding_model`."""
        for page in self._pages(", ".join(["embedding_model", *STORED_COLUMNS])):
            yield from (StoredStem(*row) for _, model, *row in page if model != embedding_model)

    def rowids_by_model(self) -> dict[str, array[int]]:
        """Return the rowids of each model's rows, 8 bytes per row.

        This reads the whole table (4 kB per stem).
        """
        rowids: dict[str, array[int]] = {}
        for page in self._pages("embedding_model"):
            for rowid, model in page:
                rowids.setdefault(model, array("q")).append(rowid)
        return rowids

    def stems_at(self, rowids: Sequence[int]) -> Iterator[StoredStem]:
        """Yield the rows with these rowids, a page at a time.

        All rows with their vectors may not fit in memory.
        """
        columns = ", ".join(STORED_COLUMNS)
        query = f"SELECT {columns} FROM stems WHERE rowid IN (SELECT value FROM json_each(?)) ORDER BY rowid"
        for start in range(0, len(rowids), ROWS_PER_PAGE):
            numbers = json.dumps(list(rowids[start : start + ROWS_PER_PAGE]))
            with self.errors():
                page = self.connection.execute(query, (numbers,)).fetchall()
            yield from (StoredStem(*row) for row in page)
            self.on_wait()

    def forbid_writes(self) -> None:
        """Make SQLite refuse every write of this connection from now on."""
        with self.errors():
            self.connection.execute("PRAGMA query_only = ON")

    def mark_outdated(self, embedding_model: str) -> None:
        """Give all rows of `embedding_model` the name of an outdated model.

        This run's engine makes other vectors under the same name. If stopped half way, it can be called again.
        """
        outdated = embedding_model + OUTDATED
        # This comes first, so that no run takes the first renamed rows for all of them.
        with self.transaction() as connection:
            connection.execute(COPY_PROVENANCE, (outdated, embedding_model))
        for page in self._pages("embedding_model"):
            with self.transaction() as connection:
                rowids = [(outdated, rowid) for rowid, model in page if model == embedding_model]
                connection.executemany("UPDATE stems SET embedding_model = ? WHERE rowid = ?", rowids)
        # This comes last, so that a run that comes before it still finds the conflict between the two engines.
        with self.transaction() as connection:
            connection.execute("DELETE FROM provenance WHERE embedding_model = ?", (embedding_model,))

    def replace_vectors(self, vectors: Sequence[NewVector], provenance: Provenance) -> None:
        """Write `vectors`, and the labels derived from them, to their rows.

        All is one transaction. `provenance` made the vectors.
        """
        with self.transaction() as connection:
            connection.execute(ENTER_PROVENANCE, dataclasses.asdict(provenance))
            connection.executemany(REPLACE_VECTOR, map(dataclasses.asdict, vectors))

    def first_provenance(self, embedding_model: str) -> Provenance | None:
        """Return the oldest provenance of `embedding_model` whose reference vector is known."""
        query = f"SELECT {', '.join(PROVENANCE_COLUMNS)} FROM provenance WHERE embedding_model = ? "
        first = "AND reference_vector IS NOT NULL ORDER BY rowid LIMIT 1"
        with self.errors():
            row = self.connection.execute(query + first, (embedding_model,)).fetchone()
        return Provenance(*row) if row else None

    def former_row(self, original_file: str) -> FormerRow | None:
        """Return what must be kept when the row of `original_file` is deleted."""
        query = "SELECT id, user_rating FROM stems WHERE original_file = CAST(? AS TEXT)"
        row = self._row(query, os.fsencode(original_file))
        return FormerRow(*row) if row else None

    def with_former_row(self, found: FoundFile) -> FoundFile:
        """Return `found` with what must outlive the row of an earlier version of it."""
        return dataclasses.replace(found, former=self.former_row(found.path))

    def stem_at(self, original_file: str) -> StemRecord | None:
        """Return the row of a file."""
        return self._stem("original_file = CAST(? AS TEXT)", os.fsencode(original_file))

    def stem_of(self, stem_id: str) -> StemRecord | None:
        """Return the row with this id."""
        return self._stem("id = CAST(? AS TEXT)", stem_id.encode())

    def _stem(self, condition: str, value: bytes) -> StemRecord | None:
        row = self._row(f"SELECT {', '.join(STEM_COLUMNS)} FROM stems WHERE {condition}", value)
        if row is None:
            return None
        columns = dict(zip(STEM_COLUMNS, row, strict=True))
        metadata = {column.name: columns.pop(column.name) for column in dataclasses.fields(StemMetadata)}
        return StemRecord(StemMetadata(**metadata), **columns)

    def rows_of(self, digest: str) -> list[tuple[str, str, str | None, bool]]:
        """Return id, original file, WAV and completeness of the rows with this sha256.

        The oldest row comes first. A row of an earlier version is incomplete: it lacks the candidates for the tempo.
        """
        query = (
            "SELECT id, original_file, path, instr(features, '\"tempo_candidates\"') > 0 FROM stems WHERE sha256 = ? "
            "ORDER BY rowid"
        )
        with self.errors():
            rows = self.connection.execute(query, (digest,)).fetchall()
        return [(stem_id, original_file, wav, bool(is_current)) for stem_id, original_file, wav, is_current in rows]

    def holders_of(self, stem_ids: Iterable[str]) -> dict[str, str]:
        """Return the original files of the rows with these ids, by id."""
        query = "SELECT id, original_file FROM stems WHERE id IN (SELECT value FROM json_each(?))"
        with self.errors():
            return dict(self.connection.execute(query, (json.dumps(list(stem_ids)),)).fetchall())

    def holder_of(self, stem_id: str) -> str | None:
        """Return the original file of the row with this id."""
        row = self._row("SELECT original_file FROM stems WHERE id = CAST(? AS TEXT)", stem_id.encode())
        return row[0] if row else None

    def free_id(self, original_file: str, digest: str) -> str:
        """Return an id for a new row.

        The id made of path and hash may be taken, by the row of a file that was there before and has moved.
        """
        ids = (stem_id_of(original_file, f"{digest}{salt or ''}") for salt in itertools.count())
        return next(stem_id for stem_id in ids if self.holder_of(stem_id) in (None, original_file))

    def take_over(self, moves: Iterable[tuple[str, str]]) -> None:
        """Point rows, by their ids, to the new paths of their files.

        Until a row's name-based columns are updated, its mtime is one that no file has. If the run is killed before
        that, the next run finishes the row.
        """
        values = [(os.fsencode(path), path_text_of(path), MOVED_MTIME_NS, stem_id) for stem_id, path in moves]
        with self.transaction() as connection:
            connection.executemany(MOVE_ROW, values)

    def insert(self, records: Sequence[StemRecord], provenance: Provenance | None) -> list[Path]:
        """Write `records`, and return the WAVs that no row names any more.

        All is one transaction. `provenance` made the vectors; it is None if they are the vectors of former rows,
        whose provenance is known. A row that is replaced keeps its `id` and `user_rating`. A row that was quarantined
        and restored gets them back.
        """
        names = [os.fsencode(record.metadata.original_file) for record in records]
        with self.transaction() as connection:
            if provenance is not None:
                connection.execute(ENTER_PROVENANCE, dataclasses.asdict(provenance))
            old_wavs = self._wavs_of(names)
            connection.executemany(INSERT_STEM, map(parameters_of, records))
            # Usually `restored` is empty.
            if connection.execute("SELECT EXISTS (SELECT 1 FROM restored)").fetchone() == (1,):
                connection.executemany(GIVE_BACK_FORMER_ROW, zip(names))
                connection.executemany("DELETE FROM restored WHERE original_file = CAST(? AS TEXT)", zip(names))
        wavs = [(old_wavs.get(record.metadata.original_file), record.metadata.path) for record in records]
        return [Path(old_wav) for old_wav, wav in wavs if old_wav and old_wav != wav]

    def enter_quarantined(self, entry: QuarantineEntry) -> Path | None:
        """Record a quarantined file, and delete its row.

        Both are one transaction. Returns the row's WAV.
        """
        name = os.fsencode(entry.original_file)
        status = (
            entry.size_bytes,
            entry.mtime_ns,
            os.fsencode(entry.path),
            storable(entry.error_text),
            entry.quarantined_at,
        )
        with self.transaction() as connection:
            wav = self._wav_of(name)
            connection.execute(ENTER_QUARANTINED, (name, *status))
            connection.execute("DELETE FROM stems WHERE original_file = CAST(? AS TEXT)", (name,))
        return wav

    def forget(self, stem_ids: Sequence[str]) -> None:
        """Delete the rows with these ids, and their corrections, in one transaction."""
        with self.transaction() as connection:
            connection.executemany("DELETE FROM stems WHERE id = ?", zip(stem_ids))
            # If such a file comes back, it gets another id, so nothing would ever read them.
            connection.executemany("DELETE FROM corrections WHERE stem_id = ?", zip(stem_ids))

    def quarantined_paths(self) -> set[str]:
        """Return the paths of all quarantined files that the database knows."""
        with self.errors():
            return {path for (path,) in self.connection.execute("SELECT quarantine_path FROM quarantined")}

    def last_outcome_at(self, original_file: str) -> str:
        """Return when `original_file` was last imported or quarantined.

        The time is ISO 8601; '' if never.
        """
        name = os.fsencode(original_file)
        imported = self._row("SELECT imported_at FROM stems WHERE original_file = CAST(? AS TEXT)", name)
        broken = self._row("SELECT quarantined_at FROM quarantined WHERE original_file = CAST(? AS TEXT)", name)
        return max(row[0] if row else "" for row in (imported, broken))

    def forget_quarantined(self, entry: QuarantineEntry) -> None:
        """Record that a file is back in its place.

        Its former id and rating wait for its next import.
        """
        name = os.fsencode(entry.original_file)
        with self.transaction() as connection:
            connection.execute(
                "DELETE FROM quarantined WHERE quarantine_path = CAST(? AS TEXT)", (os.fsencode(entry.path),)
            )
            if entry.former is not None:
                values = (name, entry.former.id, entry.former.user_rating)
                connection.execute("INSERT OR REPLACE INTO restored VALUES (CAST(? AS TEXT), ?, ?)", values)

    def _wavs_of(self, names: Sequence[bytes]) -> dict[str, str | None]:
        """Return the WAVs of the rows of these files.

        One query for all: a query per file takes half as long as inserting the row.
        """
        values = ", ".join(["CAST(? AS TEXT)"] * len(names))
        query = f"SELECT original_file, path FROM stems WHERE original_file IN ({values})"
        return dict(self.connection.execute(query, names).fetchall())

    def _wav_of(self, name: bytes) -> Path | None:
        row = self._row("SELECT path FROM stems WHERE original_file = CAST(? AS TEXT)", name)
        return Path(row[0]) if row and row[0] else None
