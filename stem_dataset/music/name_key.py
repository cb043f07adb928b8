"""Read the key in file and folder names."""

from __future__ import annotations

import re
from collections.abc import Iterator

NOTE_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
NOTE_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# In German, B is the note below H. Longer names end in 'is' for a sharp and in 'es' or 's' for a flat.
GERMAN_NOTE_STEPS = {**NOTE_STEPS, "H": 11, "B": 10}
SYLLABLE_STEPS = {"do": 0, "dó": 0, "re": 2, "ré": 2, "mi": 4, "fa": 5, "fá": 5, "sol": 7, "la": 9, "si": 11}
FLATS = ("b", "♭", "flat", "bemol", "bémol", "bemolle")
FIFTH, MINOR_THIRD, OCTAVE = 7, 3, 12

# A key lies between these: neither a letter nor a digit is beside it.
START, END = r"(?<![^\W_#])", r"(?!#|[^\W_])"
MODE = r"(?:(?P<minor>(?i:min|minor))|(?i:maj|major))"
ACCIDENTAL = r"(?P<accidental>#|b|s|♯|♭|[ _-]?(?i:sharp|flat))"
# A number that is likely to be a tempo.
TEMPO = r"(?:[6-9]\d|1\d\d)(?:[.,]\d+)?"
NOTE_PATTERNS = (
    # 'Am', 'F#m', 'Bbm'. 'FM' (the synthesis), 'am' (the word) and the notes 'C3' and 'F#' are no keys.
    re.compile(rf"(?<![A-Za-z0-9#])(?P<note>[A-G]){ACCIDENTAL}?(?P<minor>m){END}"),
    # '120Am', '95Bbmin': written together with a tempo. '7Am' may be a time.
    re.compile(
        rf"(?<![A-Z0-9.,#]){TEMPO}(?P<note>[A-G]){ACCIDENTAL}?(?:(?P<minor>m(?i:in|inor)?)|(?i:maj|major)){END}"
    ),
    # 'Bbmin', 'C# minor', 'Eb_maj', 'inFMajor'. 'Esmin' is German for E flat minor; below.
    re.compile(rf"(?<![A-Z0-9#])(?P<note>[A-G])(?!(?<=E)s){ACCIDENTAL}?[ _-]?{MODE}{END}"),
    # 'gmin', 'c_minor': a small letter needs a word for the mode. 'a minor' is no key, since it may be English.
    re.compile(rf"(?<![A-Za-z0-9#])(?!a[ _-]m)(?P<note>[a-g]){ACCIDENTAL}?[ _-]?{MODE}{END}"),
    # 'bed-a-minor-70bpm', 'a_min': in a slug, at its end or before a number or music word. 'a-minor-threat' is English.
    re.compile(
        rf"(?<![A-Za-z0-9#])(?P<note>a)[_-]{MODE}"
        r"(?=$|[_-]+(?:$|\d|(?:bpm|loop|key|scale|chords?|melody|lead|bass|pad|piano|guitar|wet|dry|stem|mix|take|v\d)"
        rf"{END}))"
    ),
    # 'piano-in-a-minor-sad', 'key_of_a_min'.
    re.compile(rf"{START}(?:in|key|of)[_-](?P<note>a)[_-]{MODE}{END}"),
)
GERMAN_PATTERNS = (
    # 'Fis-Moll', 'H-Moll', 'Es-Dur', 'cis moll'. 'a dur' may be French.
    re.compile(
        rf"{START}(?!a dur)(?P<note>(?i:[cdfg](?:is|es)?|[ae](?:is|s)?|h(?:is)?|b))[ _-]?"
        rf"(?:(?P<minor>(?i:moll))|(?i:dur)){END}"
    ),
    # 'Hmin', 'Esmin', 'Fis min', 'Desmaj': a German note with an English mode. 'As' and 'Ds' are sharps in packs.
    re.compile(rf"{START}(?P<note>H|Es|[CDFG](?:is|es))[ _-]?{MODE}{END}"),
)
SYLLABLE_PATTERNS = (
    # French and Italian: 'Do majeur', 'La minore', 'Si bémol mineur', 'Fa diesis minore'.
    re.compile(
        rf"{START}(?P<note>(?i:do|r[eé]|mi|fa|sol|la|si))"
        r"(?:[ _-]?(?P<accidental>#|b|(?i:di[eè]se|diesis|b[eé]mol|bemolle)))?[ _-]?"
        rf"(?:(?P<minor>(?i:mineur|minore))|(?i:majeur|maggiore)){END}"
    ),
    # Spanish and Portuguese: 'Re menor', 'Sol mayor', 'Fá maior'. 'la mayor' and 'mi menor' may be other words.
    re.compile(
        rf"{START}(?P<note>(?i:d[oó]|r[eé]|f[aá]|sol))(?:[ _-]?(?P<accidental>#|b|(?i:sostenido|bemol)))?[ _-]?"
        rf"(?:(?P<minor>(?i:menor))|(?i:mayor|maior)){END}"
    ),
)
# 'key of G', 'Key D'.
KEY_OF = re.compile(rf"(?<![A-Za-z])(?i:key)[ _-]?(?i:of[ _-]?)?(?P<note>[A-G]){ACCIDENTAL}?(?P<minor>m)?{END}")
# '8A' and '12B' are places on the Camelot wheel (C major is 8B), '1m' and '6d' in Open Key (C major is 1d).
WHEEL = re.compile(rf"{START}(?P<place>0?[1-9]|1[0-2])(?P<mode>[ABmd]){END}")
CAMELOT_OF_C, OPEN_KEY_OF_C = 8, 1
# They count beside a tempo ('8A - 128', '128bpm_6d') and between separators (' - 8A - ', '[12B]', '_8A_'). 'Kick 8A',
# 'Snare_3B_02' and 'room 6m' are counters and lengths.
BEFORE_WHEEL = re.compile(rf"(?<![^\W_]){TEMPO}[ _-]*(?i:bpm)?[ _-]+[\[(]?$")
BEHIND_WHEEL = re.compile(rf"[\])]?[ _-]+(?:(?i:bpm)[ _-]*)?{TEMPO}(?:[ _-]*(?i:bpm)|{END})")
SEPARATORS = (
    (re.compile(r"(?:^| - )$"), re.compile(r" - |$")),
    (re.compile(r"\[$"), re.compile(r"\]")),
    (re.compile(r"\($"), re.compile(r"\)")),
    (re.compile(r"[A-Za-z]_$"), re.compile(r"_[A-Za-z]")),
)
# 'G#' in '_98_G#' and 'C' in 'C_128': a note beside a tempo is the root of the key, whose mode is not said. 'A' and 'B'
# number takes: 'Beat 120 A', 'Beat 120 B'.
ROOT = re.compile(rf"{START}(?P<note>[C-G]|[AB](?=[#bs♯♭]))(?P<accidental>[#bs♯♭])?{END}")
BEFORE_ROOT = re.compile(rf"(?<![^\W_])(?i:bpm)?[ _-]*{TEMPO}[ _-]*(?i:bpm)?[ _-]+$")
WORDS_AROUND_AM = re.compile(r"(?i:\bi|\bwho|\bwhat|\bwhere) $|^ (?i:i|here|not|the|so|a)\b")


def key_in(name: str) -> str | None:
    """Return the one key in `name`, a flat as its sharp.

    It is None if there is no key or more than one.
    """
    keys = set(_keys_in(name)) or set(_keys_on_wheels(name)) or {_key(match) for match in KEY_OF.finditer(name)}
    return keys.pop() if len(keys) == 1 else None


def root_in(name: str) -> str | None:
    """Return the one note in `name` that stands beside a tempo, as the major key on it."""
    notes = {
        key_name(NOTE_STEPS[match["note"]] + _accidental_steps(match["accidental"]), None)
        for match in ROOT.finditer(name)
        if BEFORE_ROOT.search(name[: match.start()]) or BEHIND_WHEEL.match(name[match.end() :])
    }
    return notes.pop() if len(notes) == 1 else None


def _keys_in(name: str) -> Iterator[str]:
    for pattern in NOTE_PATTERNS:
        for match in pattern.finditer(name):
            if match[0] != "Am" or not _is_english(name, match):
                yield _key(match)
    for pattern in GERMAN_PATTERNS:
        for match in pattern.finditer(name):
            note = match["note"].upper()
            accidental = 1 if note.endswith("IS") else -1 if note.endswith("S") else 0
            yield key_name(GERMAN_NOTE_STEPS[note[0]] + accidental, match["minor"])
    for pattern in SYLLABLE_PATTERNS:
        for match in pattern.finditer(name):
            yield key_name(
                SYLLABLE_STEPS[match["note"].lower()] + _accidental_steps(match["accidental"]), match["minor"]
            )


def _is_english(name: str, am: re.Match[str]) -> bool:
    return any(WORDS_AROUND_AM.search(words) for words in (name[: am.start()], name[am.end() :]))


def _key(match: re.Match[str]) -> str:
    return key_name(
        NOTE_STEPS[match["note"].upper()] + _accidental_steps(match.groupdict().get("accidental")), match["minor"]
    )


def _accidental_steps(accidental: str | None) -> int:
    if not accidental:
        return 0
    return -1 if accidental.lower().lstrip(" _-") in FLATS else 1


def _keys_on_wheels(name: str) -> Iterator[str]:
    for match in WHEEL.finditer(name):
        before, behind = name[: match.start()], name[match.end() :]
        is_beside_tempo = BEFORE_WHEEL.search(before) or BEHIND_WHEEL.match(behind)
        is_separated = any(left.search(before) and right.match(behind) for left, right in SEPARATORS)
        # The whole name '8A' is no title between separators.
        if is_beside_tempo or (is_separated and (before or behind)):
            yield _key_on_wheel(int(match["place"]), match["mode"])


def _key_on_wheel(place: int, mode: str) -> str:
    """Return the key at a place of a wheel, on which each place is a fifth above the one before.

    A minor key has the place of its relative major.
    """
    major = FIFTH * (place - (CAMELOT_OF_C if mode in "AB" else OPEN_KEY_OF_C))
    return key_name(major - MINOR_THIRD, "m") if mode in "Am" else key_name(major, None)


def key_name(step: int, minor: str | None) -> str:
    """Return the key whose tonic is `step` semitones above C, minor if `minor` is not empty."""
    return NOTE_NAMES[step % OCTAVE] + ("m" if minor else "")
