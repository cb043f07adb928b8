"""The steps between the schemas of released versions."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

# Released history: append to it, and never edit what is here, since existing databases went through these statements.
# Each migration is literal text, so that a change of a constant or of SCHEMA cannot reach it. The key is the version
# from which a migration starts. To add one: change SCHEMA, add a migration here, and add
# tests/database/schemas/schema_<version>.sql.
MIGRATIONS = {
    # Version 1 used laion_clap on torch only. Of a model it kept nothing but '<name>@<12 digits>/f32/<rule>'.
    1: """
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
WITH models AS (
  SELECT embedding_model AS model, min(imported_at) AS first_used_at, instr(embedding_model, '/') AS slash
  FROM stems GROUP BY embedding_model
)
INSERT INTO provenance
SELECT model, 'torch', '{}', substr(model, 1, slash - 14), substr(model, slash - 12, 12), NULL,
  'f32', substr(model, slash + 5), NULL, first_used_at
FROM models;
""",
    2: """
-- Whose bytes a new file has: asked for each that shares its size with another; else it reads every row, of 4 kB.
CREATE INDEX stems_sha256 ON stems (sha256);
-- Of the README's questions: those for a category's stems, at a tempo or at any,
CREATE INDEX stems_category_bpm ON stems (category, bpm);
-- and that for stems of a few keys at a tempo.
CREATE INDEX stems_key_bpm ON stems (key, bpm) WHERE key IS NOT NULL;
""",
    # The program then fills path_text, since SQL cannot tell which names are no UTF-8.
    3: """
ALTER TABLE stems ADD COLUMN path_text TEXT;
ALTER TABLE stems ADD COLUMN inode INTEGER;
DROP INDEX stems_resume;
CREATE INDEX stems_resume ON stems (original_file, size_bytes, mtime_ns, inode);
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
""",
}


def sql_statements(text: str) -> Iterator[str]:
    """Split SQL text into its statements.

    Raises `ValueError` if the last one is incomplete. SQLite decides where a statement ends, so a comment, a string or
    a trigger may contain ";". `executescript` cannot be used, because it commits the open transaction.
    """
    statement = ""
    for piece in re.findall(r"[^;]*;|[^;]+", text):
        statement += piece
        if sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
    # After a ";", only blanks and comments are complete.
    if not sqlite3.complete_statement(f";{statement}"):
        raise ValueError(f"the SQL text ends inside a statement or a comment; complete it: {statement.strip()!r}")
