"""Read tempo, key, loop and category from file and folder names."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence, Set

from stem_dataset.datatypes import LOOP_CATEGORY, NameFacts, T
from stem_dataset.music.name_category import DRUM_LOOP, DRUMS, category_of, words_of_categories
from stem_dataset.music.name_key import key_in, root_in
from stem_dataset.music.name_tempo import lone_bpm, numbers_in, stated_bpm
from stem_dataset.music.name_words import (
    LOOP_WORDS,
    ONE_SHOT_PAIRS,
    ONE_SHOT_WORDS,
    WEAK_ONE_SHOT_WORDS,
    are_plain,
    codes_in,
    words_of,
)

# A longer file is a song.
LONGEST_DRUM_S = 60.0
# In a longer file, 'Greatest Hits' or 'The Singles' does not mean a one-shot.
LONGEST_HIT_S = 10.0


def read_name(path: str, root: str, categories: Mapping[str, Sequence[str]]) -> NameFacts:
    """Return what the names in `path` say about the file.

    The file's own name comes first, then the nearest folder's. Folders above `root` do not count. What depends on the
    file's duration is decided by `at_duration`.
    """
    parts = os.path.splitext(os.path.relpath(path, root))[0].split(os.sep)[::-1]
    with_unit = [stated_bpm(part) for part in parts]
    keys = [key_in(part) for part in parts]
    has_own_key = keys[0] is not None
    known = words_of_categories(categories)
    is_loop = first_known(_is_loop_in(parts, place, known) for place in range(len(parts)))
    has_tempo = any(tempo is not None for tempo in with_unit)
    category = category_of(parts, categories, is_loop if is_loop is not None else has_tempo or None, has_own_key)
    own = with_unit[0]
    if own is None and is_loop is not False:
        own_category = category_of(parts[:1], categories, is_loop, has_own_key)
        is_called_loop = _is_loop_in(parts, 0, known) or own_category in (LOOP_CATEGORY, DRUM_LOOP)
        # In 'Drum Loops/Trap Dusty 113', the number may count files: the audio decides.
        if is_called_loop or has_own_key or has_tempo:
            own = lone_bpm(parts[0], _loop_words(categories), known, has_tempo)
    return NameFacts(
        stated_bpm=first_known([own, *with_unit[1:]]),
        numbers=tuple(itertools.chain.from_iterable(map(numbers_in, parts))),
        key=first_known(keys),
        key_root=root_in(parts[0]) if not any(keys) else None,
        category=category,
        is_loop=is_loop,
        is_loop_if_long=first_known(_is_loop_by(words_of(part), frozenset()) for part in parts),
    )


def _loop_words(categories: Mapping[str, Sequence[str]]) -> Set[str]:
    loops = {category: words for category, words in categories.items() if category in (LOOP_CATEGORY, DRUM_LOOP)}
    return LOOP_WORDS | words_of_categories(loops)


def _is_loop_in(parts: Sequence[str], place: int, known: Set[str]) -> bool | None:
    """Return whether one of the names of a short file says that it is a loop.

    'Greatest Hits' is a title and says nothing; 'Drum Hits' consists of words in `known`. Nor does a hit or a shot
    beside a tempo with its unit say anything: 'SingleNote_105bpm' may be a riff.
    """
    words = words_of(parts[place])
    pack_name = {word for part in parts[place + 1 :] for word in words_of(part)}
    is_title = place > 0 and not are_plain(words, known | codes_in(parts[place]) | pack_name)
    is_weak_believed = not is_title and stated_bpm(parts[place]) is None
    return _is_loop_by(words, WEAK_ONE_SHOT_WORDS if is_weak_believed else frozenset())


def _is_loop_by(words: Sequence[str], weak: Set[str]) -> bool | None:
    has_one_shot = bool((ONE_SHOT_WORDS | weak) & set(words)) or any(
        pair in ONE_SHOT_PAIRS for pair in itertools.pairwise(words)
    )
    is_loop = bool(LOOP_WORDS & set(words))
    # 'Loops and One Shots' says neither.
    return is_loop if is_loop != has_one_shot else None


def at_duration(name: NameFacts, duration_s: float) -> NameFacts:
    """Return what the names say of a file of this duration.

    A file longer than a minute is a song, and no drum: 'Ride' is its title. The words 'hits', 'singles' and 'shots'
    make no one-shot of a file longer than ten seconds.
    """
    if duration_s > LONGEST_HIT_S:
        name = dataclasses.replace(name, is_loop=name.is_loop_if_long)
    if duration_s > LONGEST_DRUM_S and name.category in DRUMS:
        name = dataclasses.replace(name, category=None)
    return name


def first_known(values: Iterable[T | None]) -> T | None:
    """Return the first value that is not None; None if all are."""
    return next((value for value in values if value is not None), None)
