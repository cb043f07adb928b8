"""Split a name into words, and say which words of a folder's name describe a sound."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Set

# A word that ends in "loop", as in "drumloop".
GLUED_LOOP = re.compile(r"(\w{3,})(loops?)$")
# A run of capitals ('HH', the H of 'HiHat'), a capitalised or small word, or a number.
WORD = re.compile(r"A+(?!a)|(?<!a)aAa+|A?a+|9+")
LOOP_WORDS = frozenset("loop loops break breaks breakbeat breakbeats boucle boucles bucle bucles луп".split())
# These mark a file of any length as a one-shot, the weak ones only a short file: 'Greatest Hits', 'The Singles'.
ONE_SHOT_WORDS = frozenset("oneshot oneshots".split())
ONE_SHOT_PAIRS = frozenset({("one", "shot"), ("one", "shots")})
WEAK_ONE_SHOT_WORDS = frozenset("shot shots hit hits single singles".split())
# Words that stand beside a category in the name of a folder that describes its files, and never make it a title.
PLAIN_WORDS = LOOP_WORDS | ONE_SHOT_WORDS | WEAK_ONE_SHOT_WORDS
PLAIN_WORDS |= frozenset(
    # what is in the folder
    """sample samples sound sounds note notes wav wavs aif aiff flac audio stem stems track tracks section sections
    group groups multi multis fill fills roll rolls bpm key keys minor major min maj drum drums percussive
    tonal melodic melody music musical instrument instruments rhythm rhythms beat beats misc various other
    others assorted all raw processed resampled layer layers layered one my"""
    # how it is played or recorded
    """ acoustic electric electronic analog analogue live clean dirty distorted dry wet reverb open opened closed
    close muted mute full half top tops short medium long fast slow soft hard heavy light low mid middle
    high deep big small loud left right front back up down mono stereo male female backing background solo
    sustain sustains sustained sus legato staccato spiccato pizzicato tremolo vibrato normal grand upright
    frame hand bowed plucked struck"""
    # in other languages
    """ einzeln einzelne kurz lang offen geschlossen akustisch elektrisch und mit coup coups boucle boucles
    acoustique electrique et golpe golpes bucle bucles acustica acustico electrica electrico y colpo colpi
    ciclo elettrica e and with"""
    # of which style
    """ techno house trap trance dnb jungle dub dubstep drill edm pop rock metal jazz funk soul disco rnb hiphop hip
    hop lofi lo fi garage uk acid latin african afro indian oriental minimal industrial hardcore cinematic
    orchestral""".split()
)
# Small words of two letters that belong to titles. Other words of two letters are taken for codes, as in 'sk_guitar'.
TITLE_WORDS = frozenset("of in on at to no we me is it by de da di do du el en la le il am im tr".split())
LONGEST_CODE = 4


@functools.lru_cache(maxsize=256)
def words_of(name: str) -> tuple[str, ...]:
    """Split 'HiHat_open02' into ('hi', 'hat', 'open', '02')."""
    return tuple(part for word in _parts_of(name) for part in GLUED_LOOP.sub(r"\1 \2", word.lower()).split())


def _parts_of(name: str) -> list[str]:
    # macOS may write ö as two characters.
    name = unicodedata.normalize("NFC", name)
    kinds = "".join("A" if c.isupper() else "a" if c.isalpha() else "9" if c.isdigit() else " " for c in name)
    return [name[slice(*match.span())] for match in WORD.finditer(kinds)]


def codes_in(name: str) -> Set[str]:
    """Return the words in `name` that a pack's author writes as codes: 'FM' in 'FM_drum_loops'.

    A name in capitals alone has no codes, since they look like its other words.
    """
    if name.isupper():
        return frozenset()
    return {part.lower() for part in _parts_of(name) if part.isupper() and len(part) <= LONGEST_CODE} - TITLE_WORDS


def are_plain(words: Iterable[str], known: Set[str]) -> bool:
    """Whether none of `words` makes a folder's name a title: all are plain, numbers, short, or in `known`."""
    return all(
        word in PLAIN_WORDS or word in known or not word.isalpha() or (len(word) <= 2 and word not in TITLE_WORDS)
        for word in words
    )
