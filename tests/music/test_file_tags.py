"""How far a file's own tags are believed, and how they stand beside its name and its audio."""

from __future__ import annotations

from typing import Any

import pytest

from stem_dataset.datatypes import Description, FileTags, NameFacts
from stem_dataset.music.describe import describe
from stem_dataset.music.file_tags import key_in_tag, tag_features
from stem_dataset.music.key import KEY_NAMES

STEADY = [[120.0, 0.9, 5.0]]
WEAK = [[120.0, 0.05, 5.0]]
# Four bars of 4/4 at 120 BPM, and a length that is no number of bars at 90 to 130 BPM.
FOUR_BARS_S, ODD_S = 8.0, 8.9


def described(
    tags: FileTags, duration_s: float, name: NameFacts | None = None, tempi: Any = (), **changes: Any
) -> Description:
    """Return the description of a file of which the audio says little."""
    features = {
        **{"tempo_candidates": [list(tempo) for tempo in tempi], "key_confidences": [0.1] * 24, "pitch_hz": None},
        **{"quality_issues": [], "category_source": None, **tag_features(tags), **changes},
    }
    return describe(name or NameFacts(), features, duration_s)


def tempo(*arguments: Any, **options: Any) -> tuple[float | None, str | None]:
    description = described(*arguments, **options)
    return description.bpm, description.features["bpm_source"]


# -- tempo ------------------------------------------------------------------------------------------------------------


def test_a_count_of_beats_decides_the_tempo_from_the_length() -> None:
    assert tempo(FileTags(beats=16), 16 * 60 / 97) == (97.0, "tag")
    assert tempo(FileTags(beats=12, bpm=120), 6.4, tempi=STEADY) == (112.5, "tag")


def test_a_stated_tempo_is_exact_where_the_length_is_rounded() -> None:
    one_beat_s = round(44_100 * 60 / 174) / 44_100
    assert tempo(FileTags(beats=1, bpm=174), one_beat_s + 0.0) == (None, None)  # under half a second
    assert tempo(FileTags(beats=2, bpm=174), 2 * one_beat_s) == (174, "tag")


@pytest.mark.parametrize("beats", [1.0, 1_000.0, 4e9])
def test_beats_that_give_no_tempo_of_music_are_wrong(beats: float) -> None:
    assert tempo(FileTags(beats=beats, is_loop=True), 8.9) == (None, None)
    assert described(FileTags(beats=beats, is_loop=True), 8.9).features["is_loop"] is False


def test_the_beats_of_a_cut_file_are_not_those_of_its_length() -> None:
    assert tempo(FileTags(beats=16), FOUR_BARS_S, quality_issues=["truncated"])[1] is None


def test_a_stated_tempo_is_believed_if_the_length_is_whole_bars() -> None:
    assert tempo(FileTags(bpm=120), FOUR_BARS_S) == (120, "tag")
    assert tempo(FileTags(bpm=120), ODD_S) == (None, None)


@pytest.mark.parametrize("candidate", [92.0, 46.0, 184.0, 90.0])
def test_a_stated_tempo_is_believed_if_the_audio_has_it_or_an_octave_of_it(candidate: float) -> None:
    assert tempo(FileTags(bpm=92), 20.0, tempi=[[candidate, 0.9, 5.0]]) == (92, "tag")


@pytest.mark.parametrize("candidate", [96.0, 61.3, 138.0])
def test_a_stated_tempo_that_nothing_supports_is_not_believed(candidate: float) -> None:
    bpm, source = tempo(FileTags(bpm=92), 61.0, tempi=[[candidate, 0.9, 5.0]])
    assert (bpm, source) == (candidate, "audio")


def test_the_audio_agrees_only_with_tempi_at_which_it_is_regular() -> None:
    """Among many candidates, one is near any tempo by chance."""
    tempi = [[80.0, 0.9, 5.0], [92.0, 0.5, 3.0], [117.0, 0.7, 2.0]]
    assert tempo(FileTags(bpm=92), 20.3, tempi=tempi) == (80, "audio")
    assert tempo(FileTags(bpm=117), 20.3, tempi=tempi) == (117, "tag")


def test_audio_without_a_pulse_contradicts_no_tempo_but_the_one_that_editors_write() -> None:
    for tempi in ([], [[198.8, -0.15, 1.2], [140.6, 0.15, 0.1]]):
        assert tempo(FileTags(bpm=92), 20.3, tempi=tempi) == (92, "tag")
        assert tempo(FileTags(bpm=120), 20.3, tempi=tempi) == (None, None)


def test_a_tempo_in_the_name_comes_first_and_whole_bars_last() -> None:
    tags = FileTags(bpm=60)
    assert tempo(tags, FOUR_BARS_S, NameFacts(stated_bpm=100), STEADY) == (100, "name")
    assert tempo(tags, FOUR_BARS_S, NameFacts(numbers=(120,)), STEADY) == (120, "name")
    assert tempo(tags, FOUR_BARS_S, tempi=STEADY) == (60, "tag")
    assert tempo(FileTags(), FOUR_BARS_S, tempi=STEADY) == (120, "bars")


def test_a_tag_gives_a_one_shot_no_tempo() -> None:
    assert tempo(FileTags(bpm=120), 0.4) == (None, None)
    assert tempo(FileTags(beats=16), FOUR_BARS_S, NameFacts(is_loop=False)) == (None, None)


# -- loop or one-shot -------------------------------------------------------------------------------------------------


def is_loop(*arguments: Any, **options: Any) -> bool | None:
    loop: bool | None = described(*arguments, **options).features["is_loop"]
    return loop


def test_a_one_shot_flag_is_believed_over_a_pulse() -> None:
    assert is_loop(FileTags(), ODD_S, tempi=STEADY) is True
    assert is_loop(FileTags(is_loop=False), ODD_S, tempi=STEADY) is False
    assert tempo(FileTags(is_loop=False, bpm=120), FOUR_BARS_S, tempi=STEADY) == (None, None)


def test_a_name_is_believed_over_a_one_shot_flag() -> None:
    assert is_loop(FileTags(is_loop=False), ODD_S, NameFacts(is_loop=True)) is True
    assert is_loop(FileTags(is_loop=False), FOUR_BARS_S, NameFacts(stated_bpm=120)) is True


def test_a_song_is_no_one_shot_whatever_its_flag_says() -> None:
    assert is_loop(FileTags(is_loop=False), 61.0, tempi=STEADY) is None


def test_beats_or_whole_bars_at_a_stated_tempo_make_a_loop() -> None:
    assert is_loop(FileTags(), FOUR_BARS_S) is False
    assert is_loop(FileTags(beats=16), FOUR_BARS_S) is True
    assert is_loop(FileTags(bpm=120), FOUR_BARS_S) is True
    assert is_loop(FileTags(bpm=120), ODD_S) is False


def test_a_sampler_that_repeats_a_file_makes_a_loop_unless_it_is_a_single_note() -> None:
    assert is_loop(FileTags(is_loop=True, root_note=60), ODD_S) is True
    assert is_loop(FileTags(is_loop=True, root_note=60), ODD_S, pitch_hz=261.6) is False


# -- key --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *[
            ("Am", "Am"),
            ("F#m", "F#m"),
            ("Bbmaj", "A#"),
            ("A minor", "Am"),
            ("a minor", "Am"),
            ("C", "C"),
            ("F#", "F#"),
        ],
        *[
            ("Db", "C#"),
            ("Ebm", "D#m"),
            ("G♭ Minor", "F#m"),
            ("A♭ min", "G#m"),
            ("C♯ Major", "C#"),
            ("E flat minor", "D#m"),
        ],
        *[("F sharp", "F#"), ("cmin", "Cm"), ("bbm", "A#m"), (" Dm ", "Dm"), ("Cb", "B"), ("B#m", "Cm"), ("DMaj", "D")],
        *[("8A", "Am"), ("12B", "E"), ("1A", "G#m"), ("08b", "C"), ("5A", "Cm"), ("3B", "C#"), ("10A", "Bm")],
        *[("1m", "Am"), ("1d", "C"), ("6d", "B"), ("12m", "Dm"), ("02m", "Em")],
        *[("8A / Am", "Am"), ("Am - 8A", "Am"), ("1m, 8A", "Am")],
    ],
)
def test_a_key_is_read_in_every_notation(text: str, key: str) -> None:
    assert key_in_tag(text) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o",
        "a",
        "h",
        "CM",
        "Am7",
        "13A",
        "0A",
        "0m",
        "8AB",
        "8C",
        "Hm",
        "none",
        "all",
        "Am / C",
        "8A - 124",
        "key",
        "#",
        "1D",
    ],
)
def test_what_is_no_key_gives_none(text: str) -> None:
    assert key_in_tag(text) is None


def test_both_wheels_have_each_key_once() -> None:
    for modes in ("AB", "md"):
        assert sorted(str(key_in_tag(f"{hour}{mode}")) for hour in range(1, 13) for mode in modes) == sorted(KEY_NAMES)


def test_the_key_in_a_tag_stands_between_the_name_and_the_audio() -> None:
    tags = FileTags(key="8A")
    confidences = [0.1] * 24
    confidences[KEY_NAMES.index("C")], confidences[KEY_NAMES.index("Am")] = 0.9, 0.8

    def key(tags: FileTags, name: NameFacts | None = None) -> tuple[str | None, str | None, float | None]:
        description = described(tags, ODD_S, name, key_confidences=confidences)
        return description.key, description.features["key_source"], description.features["key_confidence"]

    assert key(FileTags()) == ("C", "audio", 0.9)
    assert key(tags) == ("Am", "tag", 0.8)
    assert key(tags, NameFacts(key="Dm")) == ("Dm", "name", 0.1)
    assert key(FileTags(key="o")) == ("C", "audio", 0.9)


# -- what a row stores ------------------------------------------------------------------------------------------------


def test_a_row_stores_the_root_note_and_the_tags() -> None:
    features = described(FileTags(128.10000610351562, 4, "8A", True, 57), ODD_S).features
    assert features["root_note"] == 57
    assert features["file_tags"] == {"bpm": 128.1, "beats": 4, "key": "Am", "is_loop": True}


def test_a_file_without_tags_has_null() -> None:
    features = described(FileTags(key="o"), ODD_S).features
    assert features["root_note"] is features["file_tags"] is None


def test_a_row_of_an_earlier_version_has_no_tags() -> None:
    features = {"tempo_candidates": [], "key_confidences": [0.1] * 24, "pitch_hz": None, "quality_issues": []}
    assert describe(NameFacts(), features, ODD_S).bpm is None
