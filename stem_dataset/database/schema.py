"""The tables, the indexes, the columns in their order, and the longer statements."""

from __future__ import annotations

import dataclasses
import operator
import os
import sqlite3
from typing import Any

from stem_dataset.database.migrations import MIGRATIONS
from stem_dataset.datatypes import (
    EMBEDDING_BYTES,
    NewVector,
    Provenance,
    StemMetadata,
    StemRecord,
    StoredStem,
    path_text_of,
)

# The suffix of `embedding_model` in rows whose engine made other vectors than the present one.
OUTDATED = "/outdated"

# The tables and views of the newest migration. A later one that changes them must be copied here instead.
CORRECTIONS_AND_LIBRARY = MIGRATIONS[3][MIGRATIONS[3].index("-- What the owner") :]

SCHEMA = f"""
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
  clap_embedding  BLOB NOT NULL CHECK (length(clap_embedding) = {EMBEDDING_BYTES}),  -- little-endian float32
  embedding_model TEXT NOT NULL,              -- '<checkpoint>@<sha256, 12 digits>/<precision>/<window rule>'
  path_text       TEXT,                       -- original_file as valid UTF-8; NULL where it is valid already
  inode           INTEGER                     -- of the original; NULL where it is not known
) STRICT;
-- The resume query reads this index alone; without it, it reads every row with its vector (4 kB a stem).
CREATE INDEX stems_resume ON stems (original_file, size_bytes, mtime_ns, inode);
-- Whose bytes a new file has: asked for each that shares its size with another; else it reads every row, of 4 kB.
CREATE INDEX stems_sha256 ON stems (sha256);
-- Of the README's questions: those for a category's stems, at a tempo or at any,
CREATE INDEX stems_category_bpm ON stems (category, bpm);
-- and that for stems of a few keys at a tempo.
CREATE INDEX stems_key_bpm ON stems (key, bpm) WHERE key IS NOT NULL;
CREATE TABLE quarantined (
  original_file TEXT PRIMARY KEY, size_bytes INTEGER, mtime_ns INTEGER, quarantine_path TEXT,
  error TEXT NOT NULL, quarantined_at TEXT NOT NULL
) STRICT;
-- What --restore-quarantine keeps of a row until its file is imported again.
CREATE TABLE restored (original_file TEXT PRIMARY KEY, id TEXT NOT NULL, user_rating INTEGER) STRICT;
CREATE TABLE provenance (                     -- each engine and set of versions that wrote vectors of a model
  embedding_model   TEXT NOT NULL,            -- as in stems
  engine            TEXT NOT NULL,            -- what computed, and where: 'torch/cpu'
  versions          TEXT NOT NULL,            -- of its libraries, JSON object with sorted names
  checkpoint        TEXT NOT NULL,            -- the weights' name
  checkpoint_sha256 TEXT NOT NULL,            -- of their file; only 12 digits where a database of schema 1 was migrated
  architecture      TEXT,                     -- NULL where migrated
  precision         TEXT NOT NULL,
  window_rule       TEXT NOT NULL,
  reference_vector  BLOB CHECK (length(reference_vector) = {EMBEDDING_BYTES}),  -- of reference_signal(); NULL: migrated
  first_used_at     TEXT NOT NULL,            -- ISO 8601, UTC
  PRIMARY KEY (embedding_model, engine, versions)
) STRICT;
{CORRECTIONS_AND_LIBRARY}"""
SCHEMA_VERSION = max(MIGRATIONS) + 1
PATH_COLUMNS = frozenset({"original_file", "path"})

STORED_COLUMNS = [c.name for c in dataclasses.fields(StoredStem)]
NEW_COLUMNS = [c.name for c in dataclasses.fields(NewVector)[1:]]
PROVENANCE_COLUMNS = [c.name for c in dataclasses.fields(Provenance)]
METADATA_COLUMNS = [c.name for c in dataclasses.fields(StemMetadata)]
RECORD_COLUMNS = [c.name for c in dataclasses.fields(StemRecord)[1:]]
STEM_COLUMNS = [*METADATA_COLUMNS, *RECORD_COLUMNS]
INSERTED_COLUMNS = [*STEM_COLUMNS, "path_text"]
PATH_PLACES = [STEM_COLUMNS.index(column) for column in PATH_COLUMNS]
METADATA_OF, RECORD_OF = operator.attrgetter(*METADATA_COLUMNS), operator.attrgetter(*RECORD_COLUMNS)


def _placeholder(column: str) -> str:
    return "CAST(? AS TEXT)" if column in PATH_COLUMNS else "?"


INSERT_STEM = (
    f"INSERT INTO stems ({', '.join(INSERTED_COLUMNS)}) VALUES ({', '.join(map(_placeholder, INSERTED_COLUMNS))}) "
    "ON CONFLICT (original_file) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in INSERTED_COLUMNS if column not in ("id", "original_file"))
)
MOVE_ROW = "UPDATE stems SET original_file = CAST(? AS TEXT), path_text = ?, mtime_ns = ? WHERE id = ?"
ENTER_PROVENANCE = (
    f"INSERT INTO provenance VALUES ({', '.join(f':{column}' for column in PROVENANCE_COLUMNS)}) "
    "ON CONFLICT (embedding_model, engine, versions) DO NOTHING"
)
MODELS_AT_A_GLANCE = """
SELECT embedding_model FROM provenance UNION
SELECT embedding_model FROM stems WHERE rowid IN ((SELECT min(rowid) FROM stems), (SELECT max(rowid) FROM stems))"""
COPY_PROVENANCE = f"""
INSERT OR REPLACE INTO provenance SELECT ?, {", ".join(PROVENANCE_COLUMNS[1:])} FROM provenance
WHERE embedding_model = ?"""
REPLACE_VECTOR = f"UPDATE stems SET {', '.join(f'{column} = :{column}' for column in NEW_COLUMNS)} WHERE id = :id"
GIVE_BACK_FORMER_ROW = """
UPDATE stems SET (id, user_rating) = (SELECT id, user_rating FROM restored WHERE original_file = stems.original_file)
WHERE original_file = CAST(? AS TEXT) AND original_file IN (SELECT original_file FROM restored)"""
ENTER_QUARANTINED = "INSERT OR REPLACE INTO quarantined VALUES (CAST(? AS TEXT), ?, ?, CAST(? AS TEXT), ?, ?)"


def enter_path_texts(connection: sqlite3.Connection) -> None:
    """Fill `path_text` after a migration, where a name is not UTF-8."""
    not_ascii = connection.execute("SELECT original_file, id FROM stems WHERE original_file GLOB '*[^ -~]*'")
    texts = [(path_text_of(path), stem_id) for path, stem_id in not_ascii if path_text_of(path) is not None]
    connection.executemany("UPDATE stems SET path_text = ? WHERE id = ?", texts)


def parameters_of(record: StemRecord) -> list[Any]:
    """Return the values of `INSERT_STEM`, paths as the bytes of the file system."""
    # dataclasses.asdict copies deeply, which takes 0.1 ms per row.
    values = [*METADATA_OF(record.metadata), *RECORD_OF(record)]
    for place in PATH_PLACES:
        if values[place] is not None:
            values[place] = os.fsencode(values[place])
    return [*values, path_text_of(record.metadata.original_file)]
