"""The full-text index over file names, folders and tags."""

from __future__ import annotations

import functools
import itertools
import os
import re
import sqlite3

# Words are compared by their stems ('kicks' finds 'kick') and without accents ('bässe' finds 'Basse').
TEXT_INDEX = """
CREATE VIRTUAL TABLE names USING fts5(
  file_name, folder, tags, content='', tokenize='porter unicode61 remove_diacritics 2'
)"""
ENTER_NAMES = "INSERT INTO names (rowid, file_name, folder, tags) VALUES (?, ?, ?, ?)"
# The values must be those that were entered.
REMOVE_NAMES = "INSERT INTO names (names, rowid, file_name, folder, tags) VALUES ('delete', ?, ?, ?, ?)"
# bm25 is lower for a better match: it counts rare words more than common ones, and words of short names more than those
# of long ones. The weights are those of the three columns, so a word in the file's name counts most. A word that every
# path has, as the name of the folder of all samples, counts nothing.
FIND_NAMES = """
SELECT rowid, bm25(names, 4.0, 2.0, 1.0) AS badness FROM names WHERE names MATCH ? {condition}
ORDER BY badness, rowid LIMIT ?"""
COUNT_UP_TO = "SELECT count(*) FROM (SELECT 1 FROM names WHERE names MATCH ? LIMIT ?)"
# A word that more stems have is not looked for in tags. One that over a tenth of all stems have in their paths, as the
# name of the folder of all samples, is not looked for in folders.
COMMON_ROWS = 20_000
COMMON_SHARE = 10
# FTS5 refuses expressions of over 256 parts.
MOST_TERMS = 100

# In 'PunchyKick01' before K and 0; in 'FXHit' before H.
WORD_BORDER = re.compile(
    r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])|(?<=[a-zà-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])|(?<=[A-Z])(?=[A-Z][a-z])"
)
WORD = re.compile(r"[^\W_]+")


# The stems of a folder come one after another.
@functools.lru_cache(maxsize=64)
def indexed_text(name: str) -> str:
    """Return what the index holds of a name: as it is, and again with its words apart."""
    apart = WORD_BORDER.sub(" ", name)
    return name if apart == name else f"{name} {apart}"


def names_row(position: int, path: str, tags: str) -> tuple[int, str, str, str]:
    """Return the values of `ENTER_NAMES`; `path` and `tags` are valid UTF-8."""
    folder, name = os.path.split(path)
    return position, indexed_text(os.path.splitext(name)[0]), indexed_text(folder), tags


def terms_of(query: str) -> list[str]:
    """Return FTS5's expressions for the words of `query`.

    Two words in a row are also one: 'hi hat' finds 'hihat'.
    """
    words = WORD.findall(WORD_BORDER.sub(" ", query))
    pairs = [first + second for first, second in itertools.pairwise(words)]
    terms = dict.fromkeys(map(str.lower, [*words, *WORD.findall(query), *pairs]))
    return [f'"{term}"' for term in itertools.islice(terms, MOST_TERMS)]


def narrowed(connection: sqlite3.Connection, term: str, rows: int) -> str | None:
    """Return `term` for the columns in which it says something about one of `rows` stems; None if none has it.

    bm25 takes 1 µs for each row that has a word, and again for each other term. So one that no row has, as most pairs
    of words, is left out, which changes no score. A tag such as 'dark' belongs to a third of all stems, and CLAP, whose
    tag it is, ranks those better by their cosines.
    """
    for columns, most in (("", COMMON_ROWS), ("{file_name folder} : ", max(COMMON_ROWS, rows // COMMON_SHARE))):
        found = connection.execute(COUNT_UP_TO, (columns + term, most + 1)).fetchone()[0]
        if found <= most:
            return columns + term if found else None
    return f"file_name : {term}"


def matches(
    connection: sqlite3.Connection, query: str, rows: int, count: int, passing: bytes | None = None
) -> list[tuple[int, float]]:
    """Return the positions of the stems whose names match best, the best first, with bm25 (lower is better).

    Any word of `query` may match. `rows` is the number of all stems, and `count` how many to return. If `passing` is
    given, it has a byte for each stem, and only those whose byte is not 0 are found. What the others are called still
    counts in how rare a word is.
    """
    terms = [narrowed(connection, term, rows) for term in terms_of(query)]
    match = " OR ".join(f"({term})" for term in terms if term is not None)
    if not match:
        return []
    if passing is not None:
        connection.create_function("passes", 1, passing.__getitem__)
    found = FIND_NAMES.format(condition="" if passing is None else "AND passes(rowid)")
    return [(position, round(badness, 9)) for position, badness in connection.execute(found, (match, count))]
