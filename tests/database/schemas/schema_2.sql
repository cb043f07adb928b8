-- Schema 2 as commit b2c90d4 released it. This file is history: never edit it. A change of the schema is a new file,
-- schema_3.sql, and a new migration in prepare_dataset_sql.py.

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

CREATE TABLE provenance (                     -- each engine and set of versions that wrote vectors of a model
  embedding_model   TEXT NOT NULL,            -- as in stems
  engine            TEXT NOT NULL,            -- what computed, and where: 'torch/cpu'
  versions          TEXT NOT NULL,            -- of its libraries, JSON object with sorted names
  checkpoint        TEXT NOT NULL,            -- the weights' name
  checkpoint_sha256 TEXT NOT NULL,            -- of their file; only 12 digits where a database of schema 1 was migrated
  architecture      TEXT,                     -- NULL where migrated
  precision         TEXT NOT NULL,
  window_rule       TEXT NOT NULL,
  reference_vector  BLOB CHECK (length(reference_vector) = 2048),  -- of reference_signal(); NULL: migrated
  first_used_at     TEXT NOT NULL,            -- ISO 8601, UTC
  PRIMARY KEY (embedding_model, engine, versions)
) STRICT;
