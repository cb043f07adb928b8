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
