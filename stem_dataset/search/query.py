"""What a user filters by, and the SQL condition for it."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass

from stem_dataset.datatypes import UNKNOWN_CATEGORY
from stem_dataset.music.name_key import NOTE_NAMES, NOTE_STEPS, key_name

# A single tempo means this much more or less, since tempi are measured.
SINGLE_BPM_WIDTH = 0.5
RANGE = re.compile(r"(\d+(?:\.\d+)?)(?:(-)(\d+(?:\.\d+)?)?)?")
KEY = re.compile(r"(?P<note>[A-Ga-g])(?P<accidental>#|b|♯|♭)? *(?P<mode>m|min|minor|maj|major)?")
ACCIDENTALS = {"#": 1, "♯": 1, "b": -1, "♭": -1, None: 0}
# Something is wrong with the sound, or something is not known that most stems of its kind have.
NEEDS_LISTENING = (
    f"(quality_ok = 0 OR category = '{UNKNOWN_CATEGORY}' OR is_loop IS NULL OR (is_loop = 1 AND bpm IS NULL))"
)


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both included."""

    least: float
    most: float

    def times(self, factor: float) -> Range:
        """Return the range with both ends multiplied."""
        return Range(self.least * factor, self.most * factor)


@dataclass(frozen=True)
class Filters:
    """The rows that a search may find. What is None or empty filters nothing.

    categories: any of them
    tempi: any of these ranges, in beats per minute
    keys: any of them, as the database has them
    folders: globs, any of them
    rating: the least rating
    needs_listening: what its owner should check by ear; see `NEEDS_LISTENING`
    """

    categories: tuple[str, ...] = ()
    tempi: tuple[Range, ...] = ()
    keys: tuple[str, ...] = ()
    is_loop: bool | None = None
    seconds: Range | None = None
    folders: tuple[str, ...] = ()
    rating: int | None = None
    is_ok: bool = False
    needs_listening: bool = False

    def condition(self) -> tuple[str, list[object]]:
        """Return the SQL condition on the sidecar's table `stems`, and its values.

        A row whose value is NULL passes no filter on that column.
        """
        parts: list[str] = []
        values: list[object] = []

        def add(part: str, *own: object) -> None:
            parts.append(part)
            values.extend(own)

        for column, names in (("category", self.categories), ("key", self.keys)):
            if names:
                add(f"{column} IN ({', '.join('?' * len(names))})", *names)
        if self.tempi:
            ends = [end for tempo in self.tempi for end in (tempo.least, tempo.most)]
            add(f"({' OR '.join(['bpm BETWEEN ? AND ?'] * len(self.tempi))})", *ends)
        if self.is_loop is not None:
            add("is_loop = ?", int(self.is_loop))
        if self.seconds is not None:
            add("duration_s BETWEEN ? AND ?", self.seconds.least, self.seconds.most)
        if self.folders:
            add(f"({' OR '.join(['folder GLOB ?'] * 2 * len(self.folders))})", *_globs(self.folders))
        if self.rating is not None:
            add("user_rating >= ?", self.rating)
        if self.is_ok:
            add("quality_ok = 1")
        if self.needs_listening:
            add(NEEDS_LISTENING)
        return " AND ".join(parts) or "1", values


def _globs(folders: tuple[str, ...]) -> list[str]:
    """Return two globs for each of `folders`: the folder itself, and what is below it.

    The sidecar has folders in lower case, with a slash at both ends.
    """
    names = [folder.replace("\\", "/").strip("/").lower() for folder in folders]
    return [glob for name in names for glob in (f"*/{name}/", f"*/{name}/*")]


def range_of(text: str) -> Range:
    """Parse '0.2-2', or '2-' for 2 and more."""
    match = RANGE.fullmatch(text.strip())
    if match is None or match[2] is None:
        raise argparse.ArgumentTypeError(f"{text!r}: give two numbers, as 0.2-2, or 2- for 2 and more")
    return _checked(text, Range(float(match[1]), float(match[3] or math.inf)))


def tempo_of(text: str) -> Range:
    """Parse '120-130', '120-', or '120', which means 119.5 to 120.5."""
    match = RANGE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: give a tempo in beats per minute, as 124, or two, as 120-130")
    bpm = float(match[1])
    if match[2] is None:
        return Range(bpm - SINGLE_BPM_WIDTH, bpm + SINGLE_BPM_WIDTH)
    return _checked(text, Range(bpm, float(match[3] or math.inf)))


def _checked(text: str, given: Range) -> Range:
    if given.least > given.most:
        raise argparse.ArgumentTypeError(f"{text!r}: the first number is larger than the second")
    return given


def rating_of(text: str) -> int:
    """Parse a rating from 0 to 5."""
    if text not in ("0", "1", "2", "3", "4", "5"):
        raise argparse.ArgumentTypeError(f"{text!r}: give a rating from 0 to 5")
    return int(text)


def key_of(text: str) -> str:
    """Parse 'Am', 'Bbm', 'f# minor' or 'C' into a key of the database, which has sharps only."""
    match = KEY.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: give a key, as C, Am, F#m or Bb")
    step = NOTE_STEPS[match["note"].upper()] + ACCIDENTALS[match["accidental"]]
    is_minor = (match["mode"] or "").startswith("m") and not (match["mode"] or "").startswith("maj")
    return key_name(step, "m" if is_minor else None)


def related_keys(key: str) -> tuple[str, ...]:
    """Return `key`, its relative key, and the neighbours of both on the circle of fifths.

    They share all or all but one of their notes: for Am these are Am, C, Dm, F, Em and G.
    """
    is_minor = key.endswith("m")
    major = (NOTE_NAMES.index(key.removesuffix("m")) + (3 if is_minor else 0)) % 12
    tonics = [(major + step) % 12 for step in (0, 5, 7)]
    majors = [NOTE_NAMES[tonic] for tonic in tonics]
    minors = [NOTE_NAMES[(tonic - 3) % 12] + "m" for tonic in tonics]
    first, second = (minors, majors) if is_minor else (majors, minors)
    return tuple(name for pair in zip(first, second, strict=True) for name in pair)
