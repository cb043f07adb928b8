"""What the names of files and folders say."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from rhythms import C_MAJOR, ROOT, chords, config, described, read
from stem_dataset.datatypes import NameFacts
from stem_dataset.music.filenames import at_duration, read_name
from stem_dataset.music.name_key import NOTE_NAMES


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
        # in slugs
        ("slow-bed-a-minor-70bpm-loop", "Am"),
        ("up-down-a-minor-3n", "Am"),
        ("bed_a_min", "Am"),
        ("piano_in_a_minor_sad", "Am"),
        # German
        ("Pad Fis-Moll", "F#m"),
        ("Pad H-Moll", "Bm"),
        ("Pad B-Dur", "A#"),
        ("Pad Es-Dur", "D#"),
        ("pad cis moll", "C#m"),
        ("Pad_As_Dur", "G#"),
        ("Amoll", "Am"),
        ("Pad Esmin", "D#m"),
        ("Pad Hmin", "Bm"),
        # French, Italian, Spanish
        ("Nappe Do majeur", "C"),
        ("Nappe La mineur", "Am"),
        ("Nappe Si bémol mineur", "A#m"),
        ("Nappe fa dièse mineur", "F#m"),
        ("Pad La minore", "Am"),
        ("Pad Sol# minore", "G#m"),
        ("Pad Mi bemolle maggiore", "D#"),
        ("Pad Re menor", "Dm"),
        # Camelot and Open Key
        ("8A - 128 - Night Drive", "Am"),
        ("12B_126_Night", "E"),
        ("Night Drive 128bpm 5A", "Cm"),
        ("Night Drive - 8B - Final", "C"),
        ("Night Drive [1A]", "G#m"),
        ("Night_11B_Drive", "A"),
        ("1m - 124 - Night Drive", "Am"),
        ("Night Drive (6d)", "B"),
        # written together
        ("K02Lead120Am", "Am"),
        ("bed_120Am_2", "Am"),
        ("inFMajor", "F"),
        ("120Bbmin", "A#m"),
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
        *("a-minor-threat", "a_minor_issue", "a-major-label", "a min"),
        *("Mollusk", "Durch", "Das Moll", "a dur", "Hm", "Es", "H", "Bdurch", "Asminute"),
        *("la mineure", "la mayor parte", "mi menor", "do", "La", "Domajeure", "Sol", "si minorenne"),
        *("Kick 8A", "Take 12B", "Snare_3B_02", "Arp1A-004", "13A - 128", "0A - 128", "8A", "room 6m", "1m", "bed_6d"),
        *("7Am", "10Am", "120Amp", "44100Am", "120A", "Amor120Ama"),
    ],
)
def test_word_or_note_is_no_key(name: str) -> None:
    assert read(f"{name}.wav").key is None


@pytest.mark.parametrize(
    ("name", "root"),
    [
        ("Bass Loop_98_G#", "G#"),
        ("Kit2_Chords_C_128_4bar", "C"),
        ("guitar_loop_140_E", "E"),
        ("TA_BASS9_125bpm_C", "C"),
        ("chill-bass-110-bpm Bb", "A#"),
        ("Pad_C_01", None),
        ("Cello_F#2_98", None),
        ("Beat 120 A", None),
        ("Loop_120_C_Am", None),
        ("Loop_C_120_D", None),
    ],
)
def test_note_beside_a_tempo_is_the_root_of_the_key(name: str, root: str | None) -> None:
    assert read(f"{name}.wav").key is None or root is None
    assert read(f"{name}.wav").key_root == root


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
    assert category("Big Gongs/3.wav", own) == "gong"
    assert category("no gong.wav", own) is None
    assert category("Songs of the Gong/3.wav", own) is None
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


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("Kicks", "kick"),
        ("01 Snares", "snare"),
        ("Deep House Claps", "clap"),
        ("FM_bass_one_shots", "bass"),
        ("Cello Section", "strings"),
        ("Drum Loops - 120 BPM", "drum_loop"),
        ("Loops/Drums", "drum_loop"),
        ("OLIVER pack/OLIVER_drums/OLIVER_hats", "hat"),
        ("Vocals/Loops", "vocal"),
        ("PX Vol 2 Digital Voices 43 patches", None),
        ("Ocean of Strings Bundle", None),
        ("Planet Strings", None),
        ("The Bass Collection", None),
        ("Kicks & Snares", None),
        ("Drums and Percussion", None),
        ("Drums", None),
        ("Drums/One Shots", None),
        ("Drum Loops/One Shots", None),
    ],
)
def test_folder_gives_a_category_only_if_its_name_is_no_title(folder: str, expected: str | None) -> None:
    assert read(f"{folder}/001.wav").category == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Drums/BD/01.wav", "kick"),
        ("My Drum Kit/SN/01.wav", "snare"),
        ("TR 909/HH/01.wav", "hat"),
        ("Kit/SN 02.wav", "snare"),
        ("CH_04.wav", "hat"),
        ("sounds/lt/moon_rocket.wav", None),
        ("sounds/sn/river.wav", None),
        ("CH/Basel tram.wav", None),
        ("Drums/MT-100/04.wav", None),
    ],
)
def test_code_of_two_letters_in_a_folder_needs_a_folder_of_drums_above(path: str, expected: str | None) -> None:
    assert read(path).category == expected


def test_file_in_a_folder_of_voices_has_no_drum_by_a_persons_name() -> None:
    assert read("voices/tom/1.wav").category == "vocal"
    assert read("drums/tom/1.wav").category == "tom"


def test_file_with_a_key_is_no_drum_loop_by_its_folder() -> None:
    assert read("Beats/Neon 93bpm F#m.wav").category is None
    assert read("Beats/Neon 93bpm.wav").category == "drum_loop"
    assert read("Drum Loop F#m.wav").category == "drum_loop"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("no_vocals", None),
        ("NoKick", None),
        ("novocals", None),
        ("Song without drums", None),
        ("Song minus drums", None),
        ("My Song (Instrumental)", None),
        ("My Song_(Instrumental)_Voc_FT", None),
        ("Vocals/no_vocals", None),
        ("No Vocals/01", None),
        ("no lead vocals", None),
        ("ohne Gesang", None),
        ("senza la voce", None),
        ("drum_loop_touchdown_no_kick", "drum_loop"),
        ("Bass no drums", "bass"),
        ("NoKick Bass", "bass"),
        ("Kick No 3", "kick"),
        ("No. 3 Kick", "kick"),
        ("Nokia Kick", "kick"),
        ("Note Bass", "bass"),
        ("Instrument Vocals", "vocal"),
        ("vocals", "vocal"),
    ],
)
def test_name_that_denies_a_category_does_not_give_it(path: str, expected: str | None) -> None:
    assert read(f"{path}.wav").category == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bassslap02", "bass"),
        ("bbvoice", "vocal"),
        ("brushsnare", "snare"),
        ("snareghost", "snare"),
        ("guitarwah", "guitar"),
        ("Tomhi", "tom"),
        ("crashedge1", "cymbal"),
        *((name, None) for name in ("sidekick", "kickstarter", "invoice", "basset", "tomorrow", "claptrap", "notes")),
    ],
)
def test_clear_word_counts_within_a_longer_one(name: str, expected: str | None) -> None:
    assert read(f"{name}.wav").category == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gong", "percussion"),
        ("Pauke", "percussion"),
        ("redoblante", "snare"),
        ("hit-hat", "hat"),
        ("breakcore", "drum_loop"),
        ("Geige", "strings"),
        ("violín", "strings"),
        ("zither", "strings"),
        ("HighNylon", "guitar"),
        ("балалайка", "guitar"),
        ("жалейка", "woodwind"),
        ("flauta", "woodwind"),
        ("малая труба", "brass"),
        ("trompeta", "brass"),
        ("Glocken", "bell"),
        ("campana", "bell"),
        ("fisarmonica", "keys"),
        ("bajo", "bass"),
        ("women singing", "vocal"),
        ("Griselda Type Beat", None),
        ("Dark Vibes", None),
        ("Heartbeat", None),
    ],
)
def test_words_of_several_languages_give_a_category(name: str, expected: str | None) -> None:
    assert read(f"{name}.wav").category == expected


@pytest.mark.parametrize("path", ["01 Tom Sawyer", "Ride", "Kicks/04", "drums"])
def test_file_longer_than_a_minute_is_no_drum_by_its_name(path: str) -> None:
    name = read(f"{path}.wav")
    assert at_duration(name, 60.1).category is None
    assert at_duration(name, 60.0).category == name.category


def test_file_longer_than_a_minute_keeps_another_category() -> None:
    assert at_duration(read("Vocals.wav"), 200).category == "vocal"


@pytest.mark.parametrize("path", ["Drum Hits/3", "Single Notes/Deep 1", "Synth Shot"])
def test_hit_or_shot_is_no_one_shot_beyond_ten_seconds(path: str) -> None:
    name = read(f"{path}.wav")
    assert at_duration(name, 10).is_loop is False
    assert at_duration(name, 10.1).is_loop is None


def test_word_one_shot_is_believed_of_any_length() -> None:
    assert at_duration(read("Pad One Shot.wav"), 30).is_loop is False
    assert at_duration(read("Loops/Chord Hits.wav"), 30).is_loop is True


@pytest.mark.parametrize("path", ["Greatest Hits/3", "The Singles/3", "Guitar_SingleNote_105bpm"])
def test_title_or_a_hit_with_a_tempo_makes_no_one_shot(path: str) -> None:
    assert read(f"{path}.wav").is_loop is None


@pytest.mark.parametrize(
    ("path", "bpm"),
    [
        ("Loop BPM=96", 96),
        ("Loop bpm.128", 128),
        ("Loop bpm: 128", 128),
        ("Loop 112 b.p.m.", 112),
        ("Loop 112 b.p.m", 112),
        ("bpm = 90 Loop", 90),
        ("SO_128_drum_loop_dense", 128),
        ("Jackin_128_Am", 128),
        ("break01_[168]", 168),
        ("loop_140_-3db", 140),
        ("drum_loops/ms2_drm123_dire", 123),
        ("K02Beat120-01", 120),
        ("Loops/130BPM/Chill03_85_Em_Chords", 85),
        ("Loops/130BPM/NM_Mux_Kick_124_BANDLAB", 124),
        ("Loops 128 BPM/Am_Bell", 128),
        # These are counters, models, years, or not alone; the audio decides.
        ("BPM=9600", None),
        ("bpm.1280", None),
        ("112 b.p.mix", None),
        ("Bass Loop 101", None),
        ("Drum Loops/Trap Dusty 113", None),
        ("Melodic Loops/RnB Haze 126", None),
        ("Bass Loop 85 Am", None),
        ("VEC1 128 BPM Perc Loops/VEC1 Perc Loop 121", 128),
        ("drum_loop_48_128", None),
        ("Drum Loop 045 Am", None),
        ("drum_loop_2018_Am", None),
        ("Drum Loop 250 Am", None),
        ("SH-101 Loop Am", None),
        ("juno106 loop", None),
        ("sfx_90", None),
        ("VFH Synth Shot 120 Am", None),
    ],
)
def test_tempo_is_stated_by_its_unit_or_as_the_only_number_of_a_loop(path: str, bpm: float | None) -> None:
    assert read(f"{path}.wav").stated_bpm == bpm


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("halftime-drum-loop-174", (174,)), ("Bass-128", (128,)), ("MT-100", ()), ("Rec 2021-03-14", ()), ("-120", ())],
)
def test_bare_number_after_a_hyphen_may_be_a_tempo(name: str, numbers: tuple[float, ...]) -> None:
    assert read(f"{name}.wav").numbers == numbers


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_umlaut_matches_however_the_file_system_writes_it(form: Any) -> None:
    assert read(unicodedata.normalize(form, "Querflöte 3.wav")).category == "woodwind"
    assert category("Querflöte.wav", {"own": [unicodedata.normalize(form, "querflöte")]}) == "own"
    assert read(unicodedata.normalize(form, "Flötenhat.wav")).category is None


def test_names_above_the_root_are_not_asked() -> None:
    root = "/home/Kicks Loop 120bpm Am 128"
    assert read_name(f"{root}/x.wav", root, config().categories) == NameFacts()
