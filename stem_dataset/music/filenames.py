"""Read tempo, key, loop and category from file and folder names."""

from __future__ import annotations

import functools
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from stem_dataset.datatypes import LOOP_CATEGORY, UNKNOWN_CATEGORY, NameFacts, T

# Sample packs state a tempo as '120bpm', '87.5 BPM' or 'bpm_174'. Any other number from 30 to 300 may be a tempo. If
# 'bpm' has a number on both sides, the one that can be a tempo counts: 'Drums 01 BPM 120'. '120-130bpm' states two.
TEMPO = r"((?:0?[3-9]\d|[12]\d\d)(?:[.,]\d{1,3})?|300)"
STATED_BPM = re.compile(rf"(?:(?<![\d.,-]){TEMPO}-)?(?<![\d.,]){TEMPO}[ _-]*bpm|(?<![a-z])bpm[ _-]*{TEMPO}(?!\d)")
BARE_NUMBER = re.compile(rf"(?<![a-z\d.,#-]){TEMPO}(?![a-z\d#])")
MODE = r"(?:(?P<minor>(?i:min|minor))|(?i:maj|major))"
# Keys are 'Am', 'F#m', 'Bbmin', 'C# minor', 'Eb_maj' and 'gmin'. 'FM' (the synthesis), 'am' (the word) and the notes
# 'C3' and 'F#' are not. A small letter needs a word for the mode after it ('gmin', 'c_minor'). 'a minor' is no key,
# since it may be English.
ACCIDENTAL = r"(?P<accidental>#|b|s|♯|♭|[ _-]?(?i:sharp|flat))"
KEY_PATTERNS = (
    re.compile(rf"(?<![A-Za-z0-9#])(?P<note>[A-G]){ACCIDENTAL}?(?P<minor>m)(?!#|[^\W_])"),
    re.compile(rf"(?<![A-Z0-9#])(?P<note>[A-G]){ACCIDENTAL}?[ _-]?{MODE}(?!#|[^\W_])"),
    re.compile(rf"(?<![A-Za-z0-9#])(?!a[ _-]m)(?P<note>[a-g]){ACCIDENTAL}?[ _-]?{MODE}(?!#|[^\W_])"),
)
KEY_OF = re.compile(rf"(?<![A-Za-z])(?i:key)[ _-]?(?i:of[ _-]?)?(?P<note>[A-G]){ACCIDENTAL}?(?P<minor>m)?(?!#|[^\W_])")
WORDS_AROUND_AM = re.compile(r"(?i:\bi|\bwho|\bwhat|\bwhere) $|^ (?i:i|here|not|the|so|a)\b")
NOTE_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
NOTE_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# A word that ends in "loop", as in "drumloop".
GLUED_LOOP = re.compile(r"(\w{3,})(loops?)$")
LOOP_WORDS = frozenset("loop loops break breaks breakbeat breakbeats".split())
ONE_SHOT_WORDS = frozenset("oneshot oneshots shot shots hit hits single singles".split())


def read_name(path: str, root: str, categories: Mapping[str, Sequence[str]]) -> NameFacts:
    """Return what the names in `path` say about the file.

    The file's own name comes first, then the nearest folder's. Folders above `root` do not count.
    """
    parts = os.path.splitext(os.path.relpath(path, root))[0].split(os.sep)[::-1]
    return NameFacts(
        stated_bpm=first_known(map(_stated_bpm, parts)),
        numbers=tuple(itertools.chain.from_iterable(map(_numbers, parts))),
        key=first_known(map(_key_in, parts)),
        category=first_known(_category_in(part, categories) for part in parts),
        is_loop=first_known(map(_is_loop_in, parts)),
    )


def first_known(values: Iterable[T | None]) -> T | None:
    """Return the first value that is not None; None if all are."""
    return next((value for value in values if value is not None), None)


def _stated_bpm(name: str) -> float | None:
    found = itertools.chain.from_iterable(STATED_BPM.findall(name.lower()))
    tempi = {float(number.replace(",", ".")) for number in found if number}
    return tempi.pop() if len(tempi) == 1 else None


def _numbers(name: str) -> list[float]:
    return [float(number.replace(",", ".")) for number in BARE_NUMBER.findall(name.lower())]


def _key_in(name: str) -> str | None:
    """Return the one key in `name`, a flat as its sharp.

    It is None if there is no key or more than one.
    """
    keys = set()
    found = [match for pattern in KEY_PATTERNS for match in pattern.finditer(name)]
    for match in found or KEY_OF.finditer(name):
        words_around = name[: match.start()], name[match.end() :]
        if match[0] == "Am" and any(WORDS_AROUND_AM.search(words) for words in words_around):
            continue
        step = NOTE_STEPS[match["note"].upper()] + _accidental_steps(match["accidental"] or "")
        keys.add(NOTE_NAMES[step % 12] + ("m" if match["minor"] else ""))
    return keys.pop() if len(keys) == 1 else None


def _accidental_steps(accidental: str) -> int:
    if not accidental:
        return 0
    return -1 if accidental in "b♭" or accidental.lower().endswith("flat") else 1


def _is_loop_in(name: str) -> bool | None:
    words = set(_words(name))
    is_loop, is_one_shot = bool(words & LOOP_WORDS), bool(words & ONE_SHOT_WORDS)
    # 'Loops and One Shots' says neither.
    return is_loop if is_loop != is_one_shot else None


def _category_in(name: str, categories: Mapping[str, Sequence[str]]) -> str | None:
    """Return the category that has a word in `name`.

    'Kicks', 'BD_02' and 'kickDrum' contain a word for a kick, 'sidekick' does not. Phrases are tried before words
    ('bass drum' is not a bass), then numbers and codes of two letters ('808 snare' is not a bass, 'OH_Perc' not an open
    hat), and the word loop last. Among equals the first category wins. Keywords of 'unknown' are removed from the name
    ('future bass' is a style), and codes beside them are ignored ('CH1 recording').
    """
    text = f" {' '.join(_words(name))} "
    has_unknown = False
    for rank, category, keyword in _ranked_keywords(
        tuple((category, *words) for category, words in categories.items())
    ):
        if keyword not in text or (has_unknown and rank == CODE_RANK):
            continue
        if category != UNKNOWN_CATEGORY:
            return category
        text = text.replace(keyword, " ")
        has_unknown = True
    return None


CODE_RANK, LOOP_RANK = 0, -1


@functools.lru_cache(maxsize=2)
def _ranked_keywords(categories: tuple[tuple[str, ...], ...]) -> list[tuple[int, str, str]]:
    """Return (rank, category, keyword between blanks) in the order of use.

    Words also appear as plurals.
    """
    ranked = []
    for category, *keywords in categories:
        for keyword in keywords:
            words = _words(keyword)
            phrase = " ".join(words)
            if len(phrase) <= 2 or phrase.isdigit():
                ranked.append((CODE_RANK, category, f" {phrase} "))
            else:
                rank = LOOP_RANK if category == LOOP_CATEGORY else len(words)
                ranked += [(rank, category, f" {phrase} "), (rank, category, f" {phrase}s ")]
    return sorted(ranked, key=lambda entry: -entry[0])


def _words(name: str) -> list[str]:
    """Split 'HiHat_open02' into ['hi', 'hat', 'open', '02']."""
    # macOS may write ö as two characters.
    name = unicodedata.normalize("NFC", name)
    kinds = "".join("A" if c.isupper() else "a" if c.isalpha() else "9" if c.isdigit() else " " for c in name)
    words = [name[slice(*match.span())].lower() for match in re.finditer(r"A+(?!a)|(?<!a)aAa+|A?a+|9+", kinds)]
    return [part for word in words for part in GLUED_LOOP.sub(r"\1 \2", word).split()]
