"""What the page may ask, and what is said of the rest."""

from __future__ import annotations

import json

import pytest

from stem_dataset.errors import UsageError
from stem_dataset.page.questions import Question, question_of
from stem_dataset.search.query import Filters, Range


def asked(**parts: object) -> Question:
    """Return the question that the page sends."""
    return question_of(json.dumps(parts).encode())


def test_nothing_asked_filters_nothing() -> None:
    nothing = Question(None, (), (), Filters(), None, None, "rank")
    assert asked() == nothing
    empty: dict[str, object] = {
        "text": None, "like": [], "unlike": [], "categories": [], "bpm": None, "half_double": False, "key": None,
        "related": False, "kind": None, "seconds": None, "folders": [], "rating": None, "ok": False,
        "needs_listening": False, "ids": None, "sort": "rank", "reverse": False,
    }  # fmt: skip
    assert asked(**empty) == nothing
    assert asked(text="  ", bpm="", key=" ") == nothing


def test_all_parts_are_read() -> None:
    question = asked(
        text=" dark kick ",
        like=["a"],
        unlike=["b"],
        categories=["kick"],
        bpm="120-130",
        half_double=True,
        key="Am",
        related=True,
        kind="loops",
        seconds="1-",
        folders=["Drums/*"],
        rating=3,
        ok=True,
        ids=["c"],
        sort="bpm",
    )
    assert (question.text, question.like, question.unlike, question.sort) == ("dark kick", ("a",), ("b",), "bpm")
    assert question.selected_ids == ("c",)
    assert question.filters.tempi == (Range(120, 130), Range(60, 65), Range(240, 260))
    assert set(question.filters.keys) == {"Am", "C", "Dm", "F", "Em", "G"}
    assert (question.filters.is_loop, question.filters.rating, question.filters.is_ok) == (True, 3, True)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"text": 1}, "text: expected text"),
        ({"text": "x" * 10_001}, "text: has 10001 characters; give at most 10000"),
        ({"like": "a"}, "like: expected a list of texts"),
        ({"like": [1]}, "like: expected a list of texts"),
        ({"categories": ["x"] * 1_001}, "categories: has 1001 entries; give at most 1000"),
        ({"categories": ["\ud800"]}, "categories: \\ud800: is not valid Unicode"),
        ({"text": "\ud800"}, "text: \\ud800: is not valid Unicode"),
        ({"bpm": "fast"}, "bpm: 'fast': give a tempo in beats per minute, as 124, or two, as 120-130"),
        ({"bpm": "130-120"}, "bpm: '130-120': the first number is larger than the second"),
        ({"bpm": 120}, "bpm: expected text"),
        ({"key": "H"}, "key: 'H': give a key, as C, Am, F#m or Bb"),
        ({"seconds": "2"}, "seconds: '2': give two numbers, as 0.2-2, or 2- for 2 and more"),
        ({"kind": "pads"}, "kind: 'pads': give one of loops, one_shots"),
        ({"rating": 6}, "rating: '6': give a rating from 0 to 5"),
        ({"rating": True}, "rating: expected a whole number"),
        ({"rating": 2.0}, "rating: expected a whole number"),
        ({"ok": 1}, "ok: expected true or false"),
        ({"sort": "size"}, "sort: 'size': give one of rank, path, bpm, key, category, seconds, rating"),
        ({"ids": 7}, "ids: expected a list of texts"),
        ({"positions": [-1]}, "positions: expected a list of whole numbers from 0"),
        ({"positions": [2**32]}, "positions: expected a list of whole numbers from 0"),
        ({"positions": [True]}, "positions: expected a list of whole numbers from 0"),
        ({"path": "/etc/passwd"}, "path: a question has no such part"),
    ],
)
def test_what_is_wrong_is_said(parts: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(**parts)
    assert str(caught.value) == said
