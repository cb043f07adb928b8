"""The full-text index gives the scores of FTS5's bm25 over all words of a query, whatever is left out to be fast."""

from __future__ import annotations

import random
import sqlite3

import pytest

from stem_dataset.search.text_index import ENTER_NAMES, FIND_NAMES, TEXT_INDEX, matches, names_row, terms_of

WORDS = ["kick", "dark", "Punchy", "warm", "snare", "808", "HiHat", "rare"]
ROWS = 300


@pytest.fixture(scope="module")
def names() -> sqlite3.Connection:
    """An index over names of random words; 'absent' is none of them."""
    dice = random.Random(1)
    connection = sqlite3.connect(":memory:")
    connection.execute(TEXT_INDEX)

    def word() -> str:
        return dice.choice(WORDS[: dice.randint(1, len(WORDS))])

    for position in range(ROWS):
        path = f"/{word()}/{word()} {word()}/{word()}{word()}_{dice.randint(1, 3)}.wav"
        connection.execute(ENTER_NAMES, names_row(position, path, f'["{word()}", "{word()}"]'))
    return connection


@pytest.mark.parametrize(
    "query", ["kick", "dark punchy kick", "absent kick", "rare hi hat", "warm absent", "absent", "?"]
)
@pytest.mark.parametrize("count", [1, 5, 50, -1])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, None])
def test_the_best_names_are_those_of_bm25_over_all_words(
    names: sqlite3.Connection, query: str, count: int, share: float | None
) -> None:
    dice = random.Random(f"{query} {count} {share}")
    passing = None if share is None else bytes(dice.random() < share for _ in range(ROWS))
    found = matches(names, query, ROWS, count, passing)
    match = " OR ".join(terms_of(query))
    everything = names.execute(FIND_NAMES.format(condition=""), (match, -1)).fetchall() if match else []
    expected = [
        (position, round(badness, 9)) for position, badness in everything if passing is None or passing[position]
    ]
    assert found == expected[: count if count >= 0 else None]


def test_a_filter_of_one_search_does_not_hold_in_the_next(names: sqlite3.Connection) -> None:
    assert matches(names, "kick", ROWS, -1, bytes(ROWS)) == []
    assert len(matches(names, "kick", ROWS, -1, bytes([1] * ROWS))) == len(matches(names, "kick", ROWS, -1)) > 0
