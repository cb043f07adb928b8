-- Schema 4 as its commit released it. This file is history: never edit it. A change of the schema is a new file,
-- schema_5.sql, and a new migration in stem_dataset/database/migrations.py.

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
  reference_vector  BLOB CHECK (length(reference_vector) = 2048),  -- of reference_signal(); NULL: migrated
  first_used_at     TEXT NOT NULL,            -- ISO 8601, UTC
  PRIMARY KEY (embedding_model, engine, versions)
) STRICT;
-- What the owner of the library says, and what therefore holds. The program reads none of it and changes none of it.
CREATE TABLE corrections (
  stem_id      TEXT NOT NULL,                 -- the id in stems
  column_name  TEXT NOT NULL CHECK (column_name IN ('bpm', 'key', 'category', 'tags')),
  value        TEXT,                          -- NULL: there is no tempo, or no key
  corrected_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')),  -- ISO 8601, UTC
  PRIMARY KEY (stem_id, column_name),
  CHECK (CASE column_name
    WHEN 'bpm' THEN value IS NULL OR CAST(value AS REAL) > 0
    WHEN 'category' THEN value IS NOT NULL
    WHEN 'tags' THEN CASE WHEN json_valid(value) THEN json_type(value) = 'array' ELSE 0 END
    ELSE 1 END)
) STRICT, WITHOUT ROWID;
-- A value that somebody writes to stems is a correction too. The program never writes one without imported_at.
CREATE TRIGGER stems_corrected AFTER UPDATE OF bpm, key, category, tags ON stems
WHEN NEW.imported_at = OLD.imported_at
BEGIN
  INSERT INTO corrections (stem_id, column_name, value)
  SELECT NEW.id, column1, column2
  FROM (VALUES ('bpm', CAST(NEW.bpm AS TEXT), CAST(OLD.bpm AS TEXT)), ('key', NEW.key, OLD.key),
    ('category', NEW.category, OLD.category), ('tags', NEW.tags, OLD.tags))
  WHERE column2 IS NOT column3
  ON CONFLICT (stem_id, column_name) DO UPDATE SET value = excluded.value, corrected_at = excluded.corrected_at;
END;
-- The stems with their corrections. Two parts, so that a query for a category, a tempo or a key uses the indexes of
-- stems: those without a correction, and the few with one.
CREATE VIEW corrected_stems AS
SELECT id, coalesce(path_text, original_file) AS original_file, bpm, key, category, tags, user_rating, quality_ok,
  duration_s, sample_rate_hz, channels, size_bytes, features, sha256, imported_at, embedding_model,
  path IS NOT NULL AS has_wav, NULL AS corrected
FROM stems WHERE id NOT IN (SELECT stem_id FROM corrections)
UNION ALL
SELECT id, coalesce(path_text, original_file),
  iif(instr(own.columns, 'bpm'),
    (SELECT CAST(value AS REAL) FROM corrections WHERE stem_id = id AND column_name = 'bpm'), bpm),
  iif(instr(own.columns, 'key'), (SELECT value FROM corrections WHERE stem_id = id AND column_name = 'key'), key),
  iif(instr(own.columns, 'category'),
    (SELECT value FROM corrections WHERE stem_id = id AND column_name = 'category'), category),
  iif(instr(own.columns, 'tags'), (SELECT value FROM corrections WHERE stem_id = id AND column_name = 'tags'), tags),
  user_rating, quality_ok, duration_s, sample_rate_hz, channels, size_bytes, features, sha256, imported_at,
  embedding_model, path IS NOT NULL, own.columns
FROM (SELECT stem_id, group_concat(column_name, ' ') AS columns FROM corrections GROUP BY stem_id) AS own
JOIN stems ON id = own.stem_id;
-- What holds of every stem. All text is valid UTF-8, and there is no BLOB.
CREATE VIEW library AS
SELECT id,
  original_file,
  rtrim(rtrim(original_file, replace(original_file, separator, '')), separator) AS folder,
  substr(original_file, 1 + length(rtrim(original_file, replace(original_file, separator, '')))) AS file_name,
  bpm, key, category, tags, user_rating, quality_ok,
  json_extract(features, '$.quality_issues') AS quality_issues,
  json_extract(features, '$.is_loop') AS is_loop,
  duration_s, sample_rate_hz, channels, size_bytes,
  json_extract(features, '$.bpm_confidence') AS bpm_confidence,
  json_extract(features, '$.key_confidence') AS key_confidence,
  json_extract(features, '$.category_cosine') AS category_cosine,
  json_extract(features, '$.pitch_hz') AS pitch_hz,
  json_extract(features, '$.loudness_lufs') AS loudness_lufs,
  json_extract(features, '$.peak_dbfs') AS peak_dbfs,
  json_extract(features, '$.rms') AS rms,
  json_extract(features, '$.zero_crossing_rate') AS zero_crossing_rate,
  json_extract(features, '$.spectral_centroid') AS spectral_centroid,
  json_extract(features, '$.spectral_bandwidth') AS spectral_bandwidth,
  json_extract(features, '$.spectral_rolloff') AS spectral_rolloff,
  iif(instr(corrected, 'bpm'), 'correction', json_extract(features, '$.bpm_source')) AS bpm_source,
  iif(instr(corrected, 'key'), 'correction', json_extract(features, '$.key_source')) AS key_source,
  iif(instr(corrected, 'category'), 'correction', json_extract(features, '$.category_source')) AS category_source,
  json_extract(features, '$.decoder') AS decoder,
  corrected,
  iif(has_wav, substr(id, 1, 2) || '/' || id || '.wav', NULL) AS wav,
  sha256, imported_at, embedding_model
FROM (SELECT *, iif(substr(original_file, 1, 1) = '/', '/', char(92)) AS separator FROM corrected_stems);
-- Where the WAVs were in the last run: if they are elsewhere now, stems.path follows.
CREATE TABLE folders (name TEXT PRIMARY KEY, path TEXT NOT NULL) STRICT;
