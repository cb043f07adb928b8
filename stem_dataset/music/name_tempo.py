"""Read the tempo in file and folder names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence, Set

from stem_dataset.music.name_words import words_of

# Any number from 30 to 300 may be a tempo.
TEMPO = r"((?:0?[3-9]\d|[12]\d\d)(?:[.,]\d{1,3})?|300)"
# 'bpm', 'BPM' and 'b.p.m.'.
UNIT = r"b(?:\.p\.m(?![^\W_])\.?|pm)"
# Sample packs state a tempo as '120bpm', '87.5 BPM', 'bpm_174', 'BPM=96' and 'bpm.128'. If the unit has a number on
# both sides, the one that can be a tempo counts: 'Drums 01 BPM 120'. '120-130bpm' states two.
STATED_BPM = re.compile(
    rf"(?:(?<![\d.,-]){TEMPO}-)?(?<![\d.,]){TEMPO}[ _-]*{UNIT}"
    rf"|(?<![a-z]){UNIT}(?:[ _-]*|[ _]*[=:.][ _]*){TEMPO}(?![\d.,]*\d)"
)
# '_128_', '[168]' and, in a slug, 'drum-loop-174', behind a word of three letters or more: 'MT-100' is a model.
BARE_NUMBER = re.compile(rf"(?:(?<![a-z\d.,#-])|(?<=[a-z]{{3}}-)){TEMPO}(?![a-z\d#])")
# The same behind a word that packs write together with the tempo: 'drm80', 'Beat120', 'Lead120Am'. '808' is a machine.
GLUED_NUMBER = re.compile(r"(?<![a-z])(?:drm|mus)([6-9]\d|1\d\d)(?!\d)|(?:drums?|beat|loop|lead|music)(1\d\d)(?!\d)")
# What a name calls a tempo without its unit lies between these.
LEAST_LONE_BPM, MOST_LONE_BPM = 60, 200
# A smaller number directly behind a word may count the files.
LEAST_BEHIND_WORD_BPM = 100


def stated_bpm(name: str) -> float | None:
    """Return the one tempo in `name` that has its unit."""
    found = itertools.chain.from_iterable(STATED_BPM.findall(name.lower()))
    tempi = {_number(text) for text in found if text}
    return tempi.pop() if len(tempi) == 1 else None


def numbers_in(name: str) -> list[float]:
    """Return the numbers in `name` that may be a tempo if the audio confirms it."""
    return [_number(_text(match)) for match in _candidates(name)]


def lone_bpm(name: str, loop_words: Set[str], instrument_words: Set[str], has_folder_tempo: bool) -> float | None:
    """Return the only number in a file's own name that may be a tempo; None if it may be a counter.

    Call this only for a file that should have a tempo. A number directly after a word, without a bracket, may be a
    counter. At the end, after a word for a loop, it counts as one ('Bass Loop 101'). If it is small or a folder states
    a tempo, so is one elsewhere after a word for a loop, or at the end after a word for an instrument.
    """
    candidates = _candidates(name)
    if len({_number(_text(match)) for match in candidates}) != 1:
        return None
    match, number = candidates[0], _number(_text(candidates[0]))
    if _text(match).startswith("0") or not LEAST_LONE_BPM <= number <= MOST_LONE_BPM:
        return None
    before = words_of(name[: match.start()])[-1:]
    if match.re is GLUED_NUMBER or not before or name[match.start() - 1] in "[(":
        return number
    is_last = not words_of(name[match.end() :])
    is_behind_loop = before[0] in loop_words
    if is_last and is_behind_loop:
        return None
    is_small = number < LEAST_BEHIND_WORD_BPM or has_folder_tempo
    is_behind_instrument = is_last and before[0] in instrument_words
    return None if is_small and (is_behind_loop or is_behind_instrument) else number


def _candidates(name: str) -> Sequence[re.Match[str]]:
    return [*BARE_NUMBER.finditer(name.lower()), *GLUED_NUMBER.finditer(name.lower())]


def _text(match: re.Match[str]) -> str:
    return match[match.lastindex or 0]


def _number(text: str) -> float:
    return float(text.replace(",", "."))
