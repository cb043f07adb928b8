"""Filters: which stems pass, by the command line."""

from __future__ import annotations

import argparse

import pytest

from libraries import SearchedLibrary, is_loop
from stem_dataset.search.query import Range, key_of, range_of, related_keys, tempo_of


@pytest.fixture
def packs(searched: SearchedLibrary) -> SearchedLibrary:
    """Six stems that differ in every column that a filter looks at."""
    searched.add("/m/Drums/Kicks/kick.wav", category="kick", duration_s=0.3, features=is_loop(False))
    searched.add("/m/Drums/Kicks/808/sub.wav", category="bass", duration_s=2.0, features=is_loop(False), key="F#m")
    searched.add("/m/Drums/snare.wav", category="snare", duration_s=0.4, features=is_loop(False), quality_ok=0)
    searched.add("/m/Loops/slow.wav", category="loop", duration_s=8.0, bpm=62.0, features=is_loop(True), key="Am")
    searched.add("/m/Loops/house.wav", category="loop", duration_s=4.0, bpm=124.4, features=is_loop(True), key="C")
    searched.add("/m/Loops/dnb.wav", category="loop", duration_s=2.0, bpm=248.0, features=is_loop(None), key="D")
    searched.change("UPDATE stems SET user_rating = 5 WHERE category = 'kick'")
    searched.change("UPDATE stems SET user_rating = 2 WHERE category = 'snare'")
    return searched


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("--category kick", "kick"),
        ("--category kick --category snare", "kick snare"),
        ("--bpm 120-130", "house"),
        ("--bpm 124", "house"),
        ("--bpm 125", ""),
        ("--bpm 200-", "dnb"),
        ("--bpm 124 --half-double", "dnb house slow"),
        ("--key Am", "slow"),
        ("--key Gbm", "sub"),
        ("--key am --related", "house slow"),
        ("--loops", "house slow"),
        ("--one-shots", "kick snare sub"),
        ("--seconds 0.35-2", "dnb snare sub"),
        ("--seconds 4-", "house slow"),
        ("--folder Drums", "kick snare sub"),
        ("--folder kicks", "kick sub"),
        ("--folder drums/*", "kick sub"),
        ("--folder /m/Drums/Kicks", "kick sub"),
        ("--folder 80[0-9] --folder Loops", "dnb house slow sub"),
        ("--folder Kick", ""),
        ("--rating 3", "kick"),
        ("--rating 2", "kick snare"),
        ("--ok --category snare", ""),
        ("--loops --key Am --seconds 1-9", "slow"),
    ],
)
def test_a_filter_keeps_the_stems_that_it_says(packs: SearchedLibrary, flags: str, names: str) -> None:
    assert sorted(name.removesuffix(".wav") for name in packs.names(*flags.split())) == names.split()


def test_without_a_query_the_stems_come_in_the_order_of_their_paths(packs: SearchedLibrary) -> None:
    found = packs.json("--top", "3")
    assert [hit["original_file"] for hit in found] == sorted(hit["original_file"] for hit in packs.json())[:3]
    assert [hit["rank"] for hit in found] == [1, 2, 3]
    assert {hit["cosine"] for hit in found} == {None}


def test_a_filter_that_nothing_passes_says_so_and_is_no_error(packs: SearchedLibrary) -> None:
    assert packs.run("--category", "kik", "--loops") == ""
    assert "nothing found among 6 stems" in packs.messages
    assert "no stem has the category kik; did you mean kick?" in packs.messages


@pytest.mark.parametrize(
    "flags",
    [
        "--bpm fast",
        "--bpm 130-120",
        "--seconds 2",
        "--key H",
        "--rating 6",
        "--loops --one-shots",
        "--half-double",
        "--related",
        "--top -1",
        "-0",
        "--json --paths",
        "--near-duplicates 2",
        "--near-duplicates --like x",
    ],
)
def test_a_wrong_flag_is_a_usage_error(packs: SearchedLibrary, flags: str) -> None:
    packs.run(*flags.split(), exit_code=2)
    assert flags.split()[0].rstrip("0") in packs.messages


def test_related_keys_share_all_but_one_of_their_notes() -> None:
    assert related_keys("Am") == ("Am", "C", "Dm", "F", "Em", "G")
    assert related_keys("C") == ("C", "Am", "F", "Dm", "G", "Em")
    assert related_keys("F#") == ("F#", "D#m", "B", "G#m", "C#", "A#m")


def test_keys_are_read_as_people_write_them() -> None:
    written = ["C", "c#", "Db", "Bbm", "a♭min", "F♯ minor", "Gmaj", "E major", "Cb"]
    assert list(map(key_of, written)) == ["C", "C#", "C#", "A#m", "G#m", "F#m", "G", "E", "B"]


def test_a_range_may_be_open_above() -> None:
    assert range_of("0.2-2") == Range(0.2, 2)
    assert range_of("2-").most == float("inf")
    assert tempo_of("120") == Range(119.5, 120.5)
    with pytest.raises(argparse.ArgumentTypeError, match="larger"):
        range_of("3-2")
