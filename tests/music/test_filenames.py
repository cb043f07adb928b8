"""What the names of files and folders say."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from rhythms import C_MAJOR, ROOT, chords, config, described, read
from stem_dataset.datatypes import NameFacts
from stem_dataset.music.filenames import NOTE_NAMES, read_name


@pytest.mark.parametrize(
    ("path", "is_loop"),
    [
        ("Bass Loop.wav", True),
        ("Kickloop 3.wav", True),
        ("Amen Break.wav", True),
        ("Kick OneShot.wav", False),
        ("Kick One Shot.wav", False),
        ("Loops/Chord Hit.wav", False),
        ("One Shots/Perc Loop.wav", True),
        ("Loops/Bass/Deep 1.wav", True),
        ("Single Notes/Deep 1.wav", False),
        ("Loops and One Shots/Deep 1.wav", None),
        ("Loops/Loops and One Shots/Deep 1.wav", True),
        ("Looper Man/Breakfast.wav", None),
    ],
)
def test_word_of_the_nearest_name_tells_a_loop_from_a_one_shot(path: str, is_loop: bool | None) -> None:
    assert read(path).is_loop is is_loop


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Bass_Am", "Am"),
        ("Pad F#min", "F#m"),
        ("Pad C maj", "C"),
        ("Loop (Dm)", "Dm"),
        ("Dbmaj", "C#"),
        ("Ebm", "D#m"),
        ("Gb Minor", "F#m"),
        ("Ab_major", "G#"),
        ("Bbm", "A#m"),
        ("Cb Major", "B"),
        ("E#min", "Fm"),
        ("D♭ minor", "C#m"),
        ("A sharp minor", "A#m"),
        ("B flat major", "A#"),
        ("Key of D", "D"),
        ("key_G", "G"),
        ("gmin", "Gm"),
        ("lofi_piano_c_minor_85", "Cm"),
        ("loop-d-min", "Dm"),
        ("a flat major", "G#"),
        ("ebmin", "D#m"),
        ("Am/Bell Gm", "Gm"),
        ("Em/Bell", "Em"),
    ],
)
def test_key_in_a_name_is_spelt_with_sharps(name: str, key: str) -> None:
    assert read(f"{name}.wav").key == key


@pytest.mark.parametrize(
    "name",
    [
        *(
            "FM Bass",
            "fm bass",
            "I Am Here",
            "What Am I",
            "Am I Ready",
            "C3",
            "F#",
            "Bass F#2",
            "Pad_C_01",
            "Bb",
            "am 3",
        ),
        *(
            "Emotion",
            "Bmore",
            "Dimension",
            "Amazing",
            "Amélie",
            "Bad Min",
            "Admin",
            "Am or Em",
            "Key",
            "Keys A",
            "Keyboard C3",
        ),
        *("A", "Em9", "Cmaj7", "a minor threat"),
    ],
)
def test_word_or_note_is_no_key(name: str) -> None:
    assert read(f"{name}.wav").key is None


@pytest.mark.parametrize("steps", range(1, 12))
def test_key_moves_with_the_chords(steps: int, tmp_path: Path) -> None:
    moved = [tuple(midi + steps for midi in triad) for triad in C_MAJOR]
    assert described(chords(*moved), tmp_path).key == NOTE_NAMES[steps]


def category(path: str, categories: dict[str, list[str]]) -> str | None:
    return read_name(f"{ROOT}/{path}", ROOT, categories).category


def test_users_own_words_tell_the_category() -> None:
    own = {"gong": ["gong", "tam tam"], "kick": ["kick"]}
    assert category("Big Gongs 3.wav", own) == "gong"
    assert category("TamTam.wav", own) == "gong"
    assert category("Snare.wav", own) is None


def test_phrase_comes_before_a_word_and_a_word_before_a_code() -> None:
    own = {"code": ["bd", "808"], "word": ["bass"], "phrase": ["bass drum"], "loop": ["loop"]}
    assert category("bd bass bass drum.wav", own) == "phrase"
    assert category("bd bass 808.wav", own) == "word"
    assert category("bd loop.wav", own) == "code"
    assert category("loop.wav", own) == "loop"


def test_words_of_unknown_are_passed_over_and_beside_them_no_code_is_believed() -> None:
    own = {"unknown": ["future bass", "memo"], "bass": ["bass"], "hat": ["ch"]}
    assert category("Future Bass 3.wav", own) is None
    assert category("Future Bass Bass.wav", own) == "bass"
    assert category("CH 1.wav", own) == "hat"
    assert category("CH 1 memo.wav", own) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Snares/Kick.wav", "kick"),
        ("Kicks/Snares/x.wav", "snare"),
        ("Kicks/Future Bass/x.wav", "kick"),
        ("sidekick/That Chat.wav", None),
    ],
)
def test_category_is_of_the_file_else_of_the_nearest_folder(path: str, expected: str | None) -> None:
    assert read(path).category == expected


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_umlaut_matches_however_the_file_system_writes_it(form: Any) -> None:
    assert read(unicodedata.normalize(form, "Querflöte 3.wav")).category == "woodwind"
    assert category("Querflöte.wav", {"own": [unicodedata.normalize(form, "querflöte")]}) == "own"
    assert read(unicodedata.normalize(form, "Flötenkick.wav")).category is None


def test_names_above_the_root_are_not_asked() -> None:
    root = "/home/Kicks Loop 120bpm Am 128"
    assert read_name(f"{root}/x.wav", root, config().categories) == NameFacts()
