"""The full-text index over file names, folders and tags."""

from __future__ import annotations

import itertools
import os
import re
import sqlite3

# Words are compared by their stems ('kicks' finds 'kick') and without accents ('bässe' finds 'Basse').
TEXT_INDEX = """
CREATE VIRTUAL TABLE names USING fts5(
  file_name, folder, tags, content='', tokenize='porter unicode61 remove_diacritics 2'
)"""
ENTER_NAME = "INSERT INTO names (rowid, file_name, folder, tags) VALUES (?, ?, ?, ?)"
# bm25 is lower for a better match: it counts rare words more than common ones, and words of short names more than those
# of long ones. The weights are those of the three columns, so a word in the file's name counts most. A word that every
# path has, as the name of the folder of all samples, counts nothing.
FIND_NAMES = """
SELECT rowid, bm25(names, 4.0, 2.0, 1.0) AS badness FROM names WHERE names MATCH ? ORDER BY badness, rowid LIMIT ?"""

# In 'PunchyKick01' before K and 0; in 'FXHit' before H.
WORD_BORDER = re.compile(
    r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])|(?<=[a-zà-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])|(?<=[A-Z])(?=[A-Z][a-z])"
)
WORD = re.compile(r"[^\W_]+")


def indexed_text(name: str) -> str:
    """Return what the index holds of a name: as it is, and again with its words apart."""
    apart = WORD_BORDER.sub(" ", name)
    return name if apart == name else f"{name} {apart}"


def enter_name(connection: sqlite3.Connection, position: int, path: str, tags: str) -> None:
    """Enter a stem's names; `path` and `tags` are valid UTF-8."""
    folder, name = os.path.split(path)
    stem, _ = os.path.splitext(name)
    connection.execute(ENTER_NAME, (position, indexed_text(stem), indexed_text(folder), tags))


def match_of(query: str) -> str | None:
    """Return FTS5's expression for the words of `query`, any of which may match; None without a word.

    Two words in a row also match as one: 'hi hat' finds 'hihat'.
    """
    words = WORD.findall(WORD_BORDER.sub(" ", query))
    pairs = [first + second for first, second in itertools.pairwise(words)]
    terms = dict.fromkeys(word.lower() for word in [*words, *WORD.findall(query), *pairs])
    return " OR ".join(f'"{term}"' for term in terms) or None


def matching_positions(connection: sqlite3.Connection, query: str, count: int) -> list[int]:
    """Return the positions of the stems whose names match best, the best first.

    `count` is how many; -1 means all.
    """
    match = match_of(query)
    if match is None:
        return []
    return [position for position, _ in connection.execute(FIND_NAMES, (match, count))]
