"""Decide what to believe of the tags in a file.

The order of trust is Audacity's (`GetAcidizerTags`, `GetProjectSyncInfo`): a one-shot has no tempo, a count of beats
decides the tempo from the length, and a stated tempo alone is often a default or another file's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stem_dataset.audio.tags import LEAST_BPM, MOST_BPM
from stem_dataset.datatypes import FileTags, NameFacts, Tempo
from stem_dataset.music.name_key import NOTE_STEPS, key_name
from stem_dataset.music.tempo import (
    LONGEST_LOOP_S,
    MIN_REGULARITY,
    SAME_TEMPO,
    WHOLE_NUMBER_TOLERANCE,
    is_whole_bars,
    least_regularity,
)

# A tempo of the audio supports a stated one if it is at least this regular, as a share of the most regular one. If all
# candidates did, more than a quarter of wrong tempi would find support by chance (`benchmarks/bench_tags.py`).
AGREEING_REGULARITY = 2 / 3

# Editors write this tempo into files that have none.
EDITORS_BPM = 120.0

# 'Am', 'F#m', 'Bbmaj', 'a minor', 'E♭ Major', and 'C' and 'F#', which are major by the rules of ID3's TKEY. 'CM' may
# mean either mode, and 'a' alone is German for A minor.
NOTE = r"(?P<note>[A-G]|[a-g](?=.*m))[ _-]?(?P<accidental>#|♯|b|♭|sharp|flat)?"
KEY = re.compile(rf"{NOTE}[ _-]?(?:(?P<minor>m|(?i:min|minor))|(?i:maj|major))?")
# The wheels of keys: Camelot (Mixed In Key) and Open Key (Traktor). One hour later is a fifth higher.
CAMELOT = re.compile(r"0?(?P<hour>[1-9]|1[0-2])(?:(?P<minor>[Aa])|[Bb])")
OPEN_KEY = re.compile(r"0?(?P<hour>[1-9]|1[0-2])(?:(?P<minor>m)|d)")
CAMELOT_C, OPEN_KEY_C = 8, 1
# Some programs write a key in two notations: '8A - Am'.
BETWEEN_NOTATIONS = re.compile(r"\s*[/|,;]\s*|\s+-\s+")


def tag_features(tags: FileTags) -> dict[str, Any]:
    """Return the keys of a row's features that hold the tags; see `stored_tags`."""
    bpm = None if tags.bpm is None else round(tags.bpm, 3)
    stated = {"bpm": bpm, "beats": tags.beats, "key": key_in_tag(tags.key or ""), "is_loop": tags.is_loop}
    has_tags = any(value is not None for value in stated.values())
    return {"root_note": tags.root_note, "file_tags": stated if has_tags else None}


def stored_tags(features: Mapping[str, Any]) -> FileTags:
    """Return the tags in a row's features.

    A row of an earlier version has none. In a truncated file, the number of beats does not fit the length.
    """
    stated = features.get("file_tags") or {}
    is_cut = "truncated" in features["quality_issues"]
    return FileTags(**{**stated, "beats": None if is_cut else stated.get("beats")}, root_note=features.get("root_note"))


def loop_in_tags(name: NameFacts, tags: FileTags, duration_s: float, is_note: bool) -> bool | None:
    """Return whether the file is a loop, from its tags; None if its name decides or nothing does.

    A one-shot may have a pulse, such as a roll. Samplers also repeat a single note, which is no loop (`is_note`).
    """
    if name.is_loop is not None or duration_s > LONGEST_LOOP_S:
        return None
    if name.stated_bpm is not None and is_whole_bars(name.stated_bpm, duration_s):
        return None
    if tags.is_loop is False:
        return False
    if _tempo_of_beats(tags, duration_s) is not None or _fills_bars(tags, duration_s):
        return True
    # A wrong count of beats makes the whole statement doubtful.
    return True if tags.is_loop and tags.beats is None and not is_note else None


def tempo_in_tags(tags: FileTags, tempi: Sequence[Tempo], duration_s: float) -> float | None:
    """Return the tempo in the tags if something supports it, else None.

    A count of beats needs no support. A stated tempo needs a length in whole bars, or one of the audio's more regular
    tempi (`tempi`) that is the same, half or double. If the audio has no pulse, any stated tempo counts but 120.
    """
    of_beats = _tempo_of_beats(tags, duration_s)
    if of_beats is not None:
        # The stated number is exact, where the length is rounded to a sample.
        is_stated = tags.bpm is not None and abs(tags.bpm - of_beats) <= WHOLE_NUMBER_TOLERANCE
        return tags.bpm if is_stated else round(of_beats, 3)
    if tags.bpm is None:
        return None
    return tags.bpm if _fills_bars(tags, duration_s) or _is_in_audio(tags.bpm, tempi, duration_s) else None


def _is_in_audio(bpm: float, tempi: Sequence[Tempo], duration_s: float) -> bool:
    most = max((tempo.regularity for tempo in tempi), default=0.0)
    if most < least_regularity(duration_s):
        # A pad has no pulse that could contradict.
        return bpm != EDITORS_BPM
    least = max(MIN_REGULARITY, AGREEING_REGULARITY * most)
    return any(
        tempo.regularity >= least and abs(octave * tempo.bpm / bpm - 1) <= SAME_TEMPO
        for tempo in tempi
        for octave in (0.5, 1, 2)
    )


def _tempo_of_beats(tags: FileTags, duration_s: float) -> float | None:
    """Return the tempo that a count of beats gives; a tempo out of range means that the count is wrong."""
    bpm = 60 * (tags.beats or 0) / duration_s
    return bpm if LEAST_BPM <= bpm <= MOST_BPM else None


def _fills_bars(tags: FileTags, duration_s: float) -> bool:
    return tags.bpm is not None and is_whole_bars(tags.bpm, duration_s)


def key_in_tag(text: str) -> str | None:
    """Return the key that a tag states, a flat as its sharp; None if it states none or two.

    'o' is ID3's word for no key.
    """
    keys = {_key_of(part.strip()) for part in BETWEEN_NOTATIONS.split(text)}
    return keys.pop() if len(keys) == 1 else None


def _key_of(text: str) -> str | None:
    for wheel, hour_of_c in ((CAMELOT, CAMELOT_C), (OPEN_KEY, OPEN_KEY_C)):
        if match := wheel.fullmatch(text):
            major = 7 * (int(match["hour"]) - hour_of_c)
            # The relative minor lies three semitones below.
            return key_name(major - 3 if match["minor"] else major, match["minor"])
    if match := KEY.fullmatch(text):
        accidental = match["accidental"]
        steps = 0 if not accidental else 1 if accidental in ("#", "♯", "sharp") else -1
        return key_name(NOTE_STEPS[match["note"].upper()] + steps, match["minor"])
    return None
