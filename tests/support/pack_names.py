"""Reads `pack_names.tsv`: file names as sample packs write them, and what a careful producer reads from each.

The table is an exam for the rules that read names, written before and apart from them. A value that two reasonable
producers would write differently stands as `?` in the table and is `UNEXAMINED` here: no answer to it is wrong.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

TABLE: Final = Path(__file__).with_name("pack_names.tsv")
COLUMNS: Final = ("path", "duration_s", "audio_bpm", "is_loop", "bpm", "key", "category")
CATEGORIES: Final = frozenset(
    "kick snare clap hat cymbal tom percussion drum_loop bass lead pluck pad chord synth keys guitar strings brass "
    "woodwind bell vocal drone texture fx riser impact loop unknown".split()
)
KEY_NAME: Final = re.compile(r"(?:[CDFGA]#?|[EB])m?")  # sharps only; E# and B# are F and C
BPM_RANGE: Final = (30.0, 300.0)
AUDIO_SUFFIXES: Final = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"})


class Unexamined(enum.Enum):
    """The type of the one mark for a value that is not examined."""

    MARK = "?"


UNEXAMINED: Final = Unexamined.MARK


class MalformedRow(ValueError):
    """A row of the table that does not say what it must; the text has the line's number and the value."""


@dataclass(frozen=True)
class PackName:
    """One file of a sample pack and what the database should hold of it; None is NULL."""

    path: str  # relative, with "/" between folders
    duration_s: float
    audio_bpm: float | None  # what a beat tracker says: may be half or double the truth, or 1-3 % off
    is_loop: bool  # of the audio, as a listener would say
    bpm: float | None
    key: str | Unexamined | None  # 'C#m', 'F', …
    category: str | Unexamined


def _bpm(text: str) -> float | None:
    """Beats per minute, or None for an empty field. Raises ValueError out of `BPM_RANGE`, and on what is no number."""
    if not text:
        return None
    low, high = BPM_RANGE
    if not low <= (bpm := float(text)) <= high:  # also catches nan
        raise ValueError(f"{text} BPM is not within {low:g} to {high:g}")
    return bpm


def _seconds(text: str) -> float:
    """A length above 0 s. Raises ValueError on any other."""
    if not 0.0 < (seconds := float(text)) < float("inf"):
        raise ValueError(f"a length must be above 0 s, this is {text!r}")
    return seconds


def _flag(text: str) -> bool:
    """True for 1 and False for 0. Raises ValueError on anything else."""
    if text not in ("0", "1"):
        raise ValueError(f"is_loop must be 0 or 1, this is {text!r}")
    return text == "1"


def _key(text: str) -> str | Unexamined | None:
    """A key as the database spells it, None for an empty field. Raises ValueError on another spelling."""
    if text == UNEXAMINED.value:
        return UNEXAMINED
    if text and not KEY_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no key as the database spells it (C, C#m, …: sharps only)")
    return text or None


def _category(text: str) -> str | Unexamined:
    """One of `CATEGORIES`. Raises ValueError on anything else, an empty field included."""
    if text == UNEXAMINED.value:
        return UNEXAMINED
    if text not in CATEGORIES:
        raise ValueError(f"{text!r} is no category; there are: {', '.join(sorted(CATEGORIES))}")
    return text


def _path(text: str) -> str:
    """A plain relative path of an audio file. Raises ValueError on any other."""
    path = PurePosixPath(text)
    if str(path) != text or path.is_absolute() or ".." in path.parts or path.suffix.lower() not in AUDIO_SUFFIXES:
        raise ValueError(f"{text!r} is no plain relative path of an audio file")
    return text


def parse_row(line: str) -> PackName:
    """One line of the table, without its line end.

    Raises:
        ValueError: another number of fields, a field that breaks its column's rule, blanks round a field, or a tempo
            expected of a one-shot, which has none whatever its name says.
    """
    fields = line.split("\t")
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{len(fields)} fields instead of {len(COLUMNS)}: {line!r}")
    if padded := [field for field in fields if field != field.strip()]:
        raise ValueError(f"blanks round {padded[0]!r}")
    path, duration, audio_bpm, is_loop, bpm, key, category = fields
    row = PackName(
        _path(path), _seconds(duration), _bpm(audio_bpm), _flag(is_loop), _bpm(bpm), _key(key), _category(category)
    )
    if row.bpm is not None and not row.is_loop:
        raise ValueError(f"{path!r} is a one-shot, of which no tempo may be expected")
    return row


def _parse_line(number: int, line: str) -> PackName:
    """`parse_row` whose errors name the line."""
    try:
        return parse_row(line)
    except ValueError as error:
        raise MalformedRow(f"line {number}: {error}") from error


def read_table(table: Path = TABLE) -> list[PackName]:
    """Every row of the table, in its order; lines that begin with '#', and empty ones, are comments.

    Raises:
        MalformedRow: no header line, a row that `parse_row` refuses, or a path that stands there twice.
    """
    lines = [(number, line) for number, line in enumerate(table.read_text("utf-8").split("\n"), 1)]
    content = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not content or tuple(content[0][1].split("\t")) != COLUMNS:
        raise MalformedRow(f"the first line that is no comment must name the columns: {' '.join(COLUMNS)}")
    rows = [_parse_line(number, line) for number, line in content[1:]]
    seen: set[str] = set()
    for (number, _), row in zip(content[1:], rows, strict=True):
        if row.path in seen:
            raise MalformedRow(f"line {number}: {row.path!r} stands in the table twice")
        seen.add(row.path)
    return rows
