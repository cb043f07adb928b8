"""Read the category in file and folder names."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stem_dataset.datatypes import LOOP_CATEGORY, UNKNOWN_CATEGORY
from stem_dataset.music.name_words import are_plain, codes_in, words_of

DRUM_LOOP = "drum_loop"
VOCAL = "vocal"
# These get no key, even if a resonance looks like one.
DRUMS = frozenset(("kick", "snare", "clap", "hat", "cymbal", "tom", "percussion", DRUM_LOOP))
# A phrase has the number of its words as its rank.
CODE_RANK, LOOP_RANK = 0, -1
# A folder below one with such a word is a folder of drums: codes of two letters count there.
DRUM_FOLDER_WORDS = frozenset(
    """drum drums drumkit drumkits kit kits percussion perc 606 707 808 909 schlagzeug batterie batteria bateria
    барабаны""".split()
)
# A folder of this name holds all that a drummer hits: only the loops in it are drum loops.
DRUM_KIT_WORDS = frozenset("drum drums schlagzeug batterie batteria bateria барабаны ударные".split())
CONJUNCTION = re.compile(r"&|(?<![^\W_])(?:and|und|et|y|e)(?![^\W_])", re.IGNORECASE)
# 'MT-100' and 'SH-101' are models of synthesizers, not toms.
MODEL = re.compile(r"(?<![^\W_])[A-Za-z]{2}-\d{2,}")
# 'no_vocals', 'NoKick', 'without drums', 'minus drums': the category named after one of these is excluded.
NEGATIONS = frozenset("no without minus ohne sans sin senza sem без".split())
# These may stand between: 'no lead vocals', 'senza la voce'.
BEHIND_NEGATION = frozenset("lead main backing any the la le el los las il die den o a as os".split())
# A name with one of these is of music without vocals.
WITHOUT_VOCALS = frozenset("instrumental instrumentals karaoke".split())
# Keywords that count at either end of a longer word: 'bbvoice', 'brushsnare', 'guitarwah'. Few English words have one
# there, and those that were found are `NOT_GLUED`.
GLUED = frozenset(
    """kick bass snare clap crash cymbal hihat openhat closedhat closedhh openhh conga bongo shaker tambourine
    cowbell vocal voice guitar piano epiano rhodes violin cello trumpet trombone flute clarinet marimba
    synth gitarre klavier schlagzeug perkussion guitare guitarra chitarra""".split()
)
NOT_GLUED = re.compile(
    r"(?:side|drop|free)kicks?|kick(?:start|off|ed|ing|stand|back)\w*|(?:sea|drumn?)bass|bass(?:e|o|i)\w*|clap(?:h|t)\w*"
    r"|crash(?:ed|ing)|ensnare\w*|\w*invoice\w*|(?:equi|uni)vocal\w*|voice(?:d|less|mail)|limoncello|earthshaker"
    r"|synth(?:wave|pop|esis|etic)"
)
# Short keywords count at the start of a longer word only before one of these: 'Tomhi'.
GLUED_TAIL = re.compile(r"hi|lo|mid|low|high|slap|ghost|roll|rim|edge|riff")
SHORTEST_BEFORE_TAIL = 3


@dataclass(frozen=True, eq=False)
class Lexicon:
    """The words of all categories, in the order of use.

    ranked: (rank, category, keyword between blanks)
    places: where in `ranked` the keywords with this first word are
    phrases: the category of each keyword
    words: each word of a keyword
    """

    ranked: Sequence[tuple[int, str, str]]
    places: Mapping[str, Sequence[int]]
    phrases: Mapping[str, str]
    words: frozenset[str]


def category_of(
    parts: Sequence[str], categories: Mapping[str, Sequence[str]], is_loop: bool | None, has_key: bool
) -> str | None:
    """Return the category that the names give; `parts` are the file's own name and its folders, nearest first.

    The category 'loop' is of a file whose names say nothing more specific. `is_loop` is what the names say of that: a
    one-shot is no drum loop. A file whose own name has a key is no drum loop by its folder: 'Beats' may hold songs. A
    drum's name below a folder of voices is taken for a speaker's (`voices/tom`).
    """
    lexicon = _lexicon(tuple((category, *words) for category, words in categories.items()))
    excluded = {DRUM_LOOP, LOOP_CATEGORY} if is_loop is False else set()
    answers = []
    for place, part in enumerate(parts):
        words, negated = _without_negated(_unglued(words_of(part), lexicon), lexicon)
        excluded |= negated
        read = _of_folder(part, words, parts[place + 1 :], lexicon, is_loop) if place else _of_file(words, lexicon)
        answer = next((category for category in read if category not in excluded), None)
        if place == 0 and answer not in (None, LOOP_CATEGORY):
            return answer
        answers.append(answer)
        if has_key:
            excluded.add(DRUM_LOOP)
    known = [answer for answer in answers if answer is not None]
    specific = [answer for answer in known if answer != LOOP_CATEGORY]
    if specific and specific[0] in DRUMS and VOCAL in specific:
        return VOCAL
    return next(iter(specific or known), None)


def words_of_categories(categories: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return each word of a keyword, also in the plural."""
    return _lexicon(tuple((category, *words) for category, words in categories.items())).words


def _of_file(words: Sequence[str], lexicon: Lexicon) -> list[str]:
    return _categories_in(f" {' '.join(words)} ", lexicon)


def _of_folder(
    name: str, words: Sequence[str], above: Sequence[str], lexicon: Lexicon, is_loop: bool | None
) -> list[str]:
    """Return the categories that a folder's name gives to the files in it, best first.

    The name must consist of words of categories and plain ones: 'Kicks' and '01 Snares', not 'Ocean of Strings'. Words
    that a folder above has too are the pack's name, and do not count. A name that joins two categories, as 'Kicks &
    Snares', gives neither.
    """
    pack_name = frozenset(word for folder in above for word in words_of(folder))
    if not are_plain(words, lexicon.words | codes_in(name) | pack_name):
        return []
    has_codes = bool(DRUM_FOLDER_WORDS & pack_name) and not MODEL.search(name)
    joined = [_of_file(words_of(part), lexicon) for part in CONJUNCTION.split(name)]
    if len({categories[0] for categories in joined if categories}) > 1:
        return []
    found = _categories_in(f" {' '.join(words)} ", lexicon, has_codes)
    if not is_loop and DRUM_KIT_WORDS & set(words) and found == [DRUM_LOOP]:
        return []
    return found


def _categories_in(text: str, lexicon: Lexicon, has_codes: bool = True) -> list[str]:
    """Return the categories that have a word in `text`, best first.

    'Kicks', 'BD_02' and 'kickDrum' contain a word for a kick, 'sidekick' does not. Phrases are tried before words
    ('bass drum' is not a bass), then numbers and codes of two letters ('808 snare' is not a bass, 'OH_Perc' not an open
    hat), and the word loop last. Among equals the first category wins. Keywords of 'unknown' are removed from the name
    ('future bass' is a style), and codes beside them are ignored ('CH1 recording').
    """
    found: dict[str, None] = {}
    has_unknown = False
    for place in sorted({place for word in text.split() for place in lexicon.places.get(word, ())}):
        rank, category, keyword = lexicon.ranked[place]
        if keyword not in text or (rank == CODE_RANK and (has_unknown or not (has_codes or keyword[1:-1].isdigit()))):
            continue
        if category != UNKNOWN_CATEGORY:
            found[category] = None
        elif not found:
            text = text.replace(keyword, " ")
            has_unknown = True
    return list(found)


@functools.lru_cache(maxsize=4)
def _lexicon(categories: tuple[tuple[str, ...], ...]) -> Lexicon:
    """Return the words of `categories`, also as plurals."""
    ranked = []
    for category, *keywords in categories:
        for keyword in keywords:
            words = words_of(keyword)
            phrase = " ".join(words)
            if len(phrase) <= 2 or phrase.isdigit():
                ranked.append((CODE_RANK, category, f" {phrase} "))
            else:
                rank = LOOP_RANK if category == LOOP_CATEGORY else len(words)
                ranked += [(rank, category, f" {phrase} "), (rank, category, f" {phrase}s ")]
    ranked.sort(key=lambda entry: -entry[0])
    phrases = {phrase.strip(): category for _, category, phrase in reversed(ranked) if category != UNKNOWN_CATEGORY}
    places: dict[str, list[int]] = {}
    for place, (_, _, phrase) in enumerate(ranked):
        # A keyword of signs alone has no word, and is never found.
        for word in phrase.split()[:1]:
            places.setdefault(word, []).append(place)
    return Lexicon(ranked, places, phrases, frozenset(word for _, _, phrase in ranked for word in phrase.split()))


def _without_negated(words: Sequence[str], lexicon: Lexicon) -> tuple[list[str], set[str]]:
    """Return `words` without each negation and the keyword behind it, and the excluded categories."""
    excluded = {VOCAL} if WITHOUT_VOCALS & set(words) else set()
    kept: list[str] = []
    place = 0
    while place < len(words):
        start = place + 1
        if words[place] in NEGATIONS:
            while start < len(words) and words[start] in BEHIND_NEGATION:
                start += 1
            for end in (start + 2, start + 1):
                category = lexicon.phrases.get(" ".join(words[start:end]))
                if category is not None:
                    excluded.add(category)
                    start = end
                    break
            else:
                start = place + 1
        if start == place + 1:
            kept.append(words[place])
        place = start
    return kept, excluded


def _unglued(words: Iterable[str], lexicon: Lexicon) -> list[str]:
    """Split glued words, such as 'bassslap' into 'bass' and 'slap'; see `GLUED` and `GLUED_TAIL`."""
    return [part for word in words for part in _parts_of(word, lexicon)]


def _is_glued(word: str) -> bool:
    return word in GLUED or word.removesuffix("s") in GLUED


@functools.lru_cache(maxsize=4096)
def _parts_of(word: str, lexicon: Lexicon) -> tuple[str, ...]:
    if word in lexicon.words or NOT_GLUED.fullmatch(word):
        return (word,)
    if word.startswith("no") and word[2:] in lexicon.words and (_is_glued(word[2:]) or word == "nodrums"):
        return "no", word[2:]
    for end in range(len(word) - 1, SHORTEST_BEFORE_TAIL - 1, -1):
        head, tail = word[:end], word[end:]
        if head in lexicon.words and (head in GLUED or GLUED_TAIL.fullmatch(tail)):
            return head, tail
    for start in range(1, len(word) - SHORTEST_BEFORE_TAIL):
        head, tail = word[:start], word[start:]
        if tail in lexicon.words and _is_glued(tail):
            return head, tail
    return (word,)
