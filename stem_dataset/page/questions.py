"""What the page asks: JSON, checked and read as the command line reads its flags."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stem_dataset.datatypes import T
from stem_dataset.errors import UsageError
from stem_dataset.logs import printable
from stem_dataset.search.ask import Given, filters_of
from stem_dataset.search.query import Filters, key_of, range_of, rating_of, tempo_of

SORTS = ("rank", "path", "bpm", "key", "category", "seconds", "rating")
KINDS = {"loops": True, "one_shots": False}
# In one list of a question: SQLite allows 32,766 values in a statement, of which a folder takes two.
MOST_NAMES = 1_000
MOST_IDS = 1_000_000
MOST_CHARACTERS = 10_000


@dataclass(frozen=True)
class Question:
    """A search of the page.

    like, unlike: ids of stems
    selected: the ids or the positions of a selection on the map; None if there is none
    sort: one of `SORTS`; ratings from the highest, the other columns from the lowest
    is_reversed: the other way round
    """

    text: str | None
    like: tuple[str, ...]
    unlike: tuple[str, ...]
    filters: Filters
    selected_ids: tuple[str, ...] | None
    selected_positions: tuple[int, ...] | None
    sort: str
    is_reversed: bool = False


def parsed(body: bytes) -> Any:
    """Return the value of JSON in UTF-8; raises `UsageError`."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not a number of JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {printable(error)}") from None


def question_of(body: bytes) -> Question:
    """Return the question in JSON; raises `UsageError` with the name of what is wrong."""
    given = object_of(parsed(body))
    unknown = sorted(given.keys() - QUESTION_KEYS)
    if unknown:
        raise UsageError(f"{printable(unknown[0])}: a question has no such part")
    text = _value(given, "text", str)
    if text is not None and len(text) > MOST_CHARACTERS:
        raise UsageError(f"text: has {len(text)} characters; give at most {MOST_CHARACTERS}")
    kind, sort = _value(given, "kind", str), _value(given, "sort", str) or "rank"
    if kind is not None and kind not in KINDS:
        raise UsageError(f"kind: {kind!r}: give one of {', '.join(KINDS)}")
    if sort not in SORTS:
        raise UsageError(f"sort: {sort!r}: give one of {', '.join(SORTS)}")
    rating = _value(given, "rating", int)
    filters = Given(
        categories=_names(given, "categories"),
        tempo=_read(given, "bpm", tempo_of),
        half_double=_value(given, "half_double", bool) or False,
        key=_read(given, "key", key_of),
        related=_value(given, "related", bool) or False,
        is_loop=KINDS[kind] if kind is not None else None,
        seconds=_read(given, "seconds", range_of),
        folders=_names(given, "folders"),
        rating=None if rating is None else rating_given("rating", rating),
        is_ok=_value(given, "ok", bool) or False,
        needs_listening=_value(given, "needs_listening", bool) or False,
    )
    return Question(
        text=text.strip() or None if text is not None else None,
        like=_names(given, "like"),
        unlike=_names(given, "unlike"),
        filters=filters_of(filters),
        selected_ids=_names(given, "ids", MOST_IDS) if given.get("ids") is not None else None,
        selected_positions=positions_of(given["positions"]) if given.get("positions") is not None else None,
        sort=sort,
        is_reversed=_value(given, "reverse", bool) or False,
    )


QUESTION_KEYS = frozenset(
    "text like unlike categories bpm half_double key related kind seconds folders rating ok needs_listening ids "
    "positions sort reverse".split()
)


def object_of(value: Any) -> dict[str, Any]:
    """Return an object of JSON; raises `UsageError` for anything else."""
    if not isinstance(value, dict):
        raise UsageError("expected a JSON object")
    return value


def positions_of(value: Any) -> tuple[int, ...]:
    """Return positions in the sidecar; raises `UsageError` for anything else."""
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each < 2**32 for each in value):
        raise UsageError("positions: expected a list of whole numbers from 0")
    return tuple(value)


def rating_given(name: str, value: Any) -> int:
    """Return a rating; raises `UsageError` unless it is a whole number from 0 to 5."""
    # True is an int of Python, and not a rating.
    if type(value) is not int:
        raise UsageError(f"{name}: give a rating from 0 to 5")
    return _checked(name, str(value), rating_of)


def _value(given: dict[str, Any], name: str, kind: type[T]) -> T | None:
    value = given.get(name)
    # Not `isinstance`, for which true is a number.
    if value is not None and type(value) is not kind:
        names = {str: "text", int: "a whole number", bool: "true or false"}
        raise UsageError(f"{name}: expected {names[kind]}")
    if isinstance(value, str):
        unicode_of(name, value)
    return value


def _names(given: dict[str, Any], name: str, most: int = MOST_NAMES) -> tuple[str, ...]:
    value = given.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"{name}: expected a list of texts")
    if len(value) > most:
        raise UsageError(f"{name}: has {len(value)} entries; give at most {most}")
    return tuple(unicode_of(name, each) for each in value)


def unicode_of(name: str, text: str) -> str:
    """Return `text`; raises `UsageError` if it has half a character, which JSON allows and SQLite does not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{name}: {printable(text)}: is not valid Unicode") from None
    return text


def _read(given: dict[str, Any], name: str, read: Callable[[str], T]) -> T | None:
    text = _value(given, name, str)
    return _checked(name, text, read) if text is not None and text.strip() else None


def _checked(name: str, text: str, read: Callable[[str], T]) -> T:
    try:
        return read(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{name}: {error}") from None
