"""What the page finds and shows."""

from __future__ import annotations

import os

import numpy as np
import pytest

from libraries import STAND_IN_MODEL, SearchedLibrary, add_all, direction, is_loop
from page_client import PageClient, opened_page
from patching import replace_name


def id_of(page: PageClient, name: str) -> str:
    """Return the id of the stem with this file name."""
    (found,) = [row["id"] for row in page.rows() if row["name"] == name]
    return str(found)


def test_the_library_says_what_there_is_to_search(page: PageClient) -> None:
    library = page.get("/api/library")
    assert (library["rows"], library["database"], library["understands_texts"]) == (4, "stems.db", True)
    assert library["categories"] == [{"name": name, "rows": 1} for name in ("bass", "drum_loop", "kick")]
    assert len(library["keys"]) == 24
    assert (library["quarantined"], library["other_model_rows"]) == (0, 0)


def test_without_a_question_all_stems_are_listed_by_path(page: PageClient) -> None:
    assert page.names() == ["deep.flac", "kick.wav", "beat.wav", "odd.wv"]


def test_a_row_has_what_the_page_shows(page: PageClient) -> None:
    (row,) = page.rows(categories=["bass"])
    assert row.pop("id")
    assert row == {
        "rank": 1,
        "cosine": None,
        "name": "deep.flac",
        "folder": "/music/Bass",
        "path": "/music/Bass/deep.flac",
        "category": "bass",
        "bpm": None,
        "key": "Am",
        "seconds": 2.0,
        "is_loop": False,
        "tags": [],
        "rating": None,
        "ok": True,
        "quality": [],
        "corrected": [],
        "audio": "original",
    }


def test_what_is_not_known_is_null(page: PageClient) -> None:
    row = page.rows()[-1]
    assert (row["category"], row["bpm"], row["key"], row["is_loop"], row["audio"]) == (None,) * 5


def test_a_name_that_is_markup_or_not_utf8_is_text(searched: SearchedLibrary) -> None:
    searched.add("/music/<script>alert(1).wav")
    searched.add(os.fsdecode(b"/music/\xff\x1b[2J\xe2\x80\xaegpj.wav"))
    with opened_page(searched) as page:
        assert set(page.names()) == {"<script>alert(1).wav", "\\xff\\x1b[2J\\u202egpj.wav"}


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ({"categories": ["kick", "bass"]}, ["deep.flac", "kick.wav"]),
        ({"bpm": "120-130"}, ["beat.wav"]),
        ({"bpm": "62", "half_double": True}, ["beat.wav"]),
        ({"key": "A minor"}, ["deep.flac"]),
        ({"key": "C", "related": True}, ["deep.flac"]),
        ({"kind": "loops"}, ["beat.wav"]),
        ({"kind": "one_shots"}, ["deep.flac", "kick.wav"]),
        ({"seconds": "0.2-1"}, ["kick.wav", "odd.wv"]),
        ({"folders": ["drums", "b*"]}, ["deep.flac", "kick.wav"]),
        ({"needs_listening": True}, ["odd.wv"]),
        ({"positions": [1, 3]}, ["beat.wav", "odd.wv"]),
        ({"positions": [1, 3], "kind": "loops"}, ["beat.wav"]),
        ({"positions": []}, []),
        ({"ids": []}, []),
    ],
)
def test_filters_are_those_of_the_command_line(page: PageClient, question: dict[str, object], names: list[str]) -> None:
    assert page.names(**question) == names


def test_what_needs_a_listen_is_odd_or_lacks_what_its_kind_has(searched: SearchedLibrary) -> None:
    add_all(searched, ["fine.wav"], features=is_loop(False))
    add_all(searched, ["fine loop.wav"], features=is_loop(True), bpm=90.0)
    add_all(searched, ["clipped.wav"], features=is_loop(False), quality_ok=0)
    add_all(searched, ["loop without tempo.wav"], features=is_loop(True))
    add_all(searched, ["loop or not.wav"], features=is_loop(None))
    add_all(searched, ["what is it.wav"], features=is_loop(False), category="unknown")
    with opened_page(searched) as page:
        assert page.names(needs_listening=True) == [
            "clipped.wav",
            "loop or not.wav",
            "loop without tempo.wav",
            "what is it.wav",
        ]


def test_a_selection_by_id_is_filtered_too(page: PageClient) -> None:
    chosen = [id_of(page, "kick.wav"), id_of(page, "beat.wav"), "gone"]
    assert page.names(ids=chosen) == ["kick.wav", "beat.wav"]
    assert page.names(ids=chosen, kind="loops") == ["beat.wav"]


def test_a_text_ranks_first_what_the_command_line_does_and_then_all_others(
    searched: SearchedLibrary, page: PageClient
) -> None:
    searched.understand({"beat": direction(x=3, u=2, y=1)})
    by_command = searched.names("beat", "--top", "0")
    assert page.names(text="beat")[: len(by_command)] == by_command
    assert sorted(page.names(text="beat")) == sorted(page.names())
    cosines = {row["name"]: row["cosine"] for row in page.rows(text="beat")}
    assert cosines["kick.wav"] == pytest.approx(3 / 14**0.5, abs=1e-6)


def test_what_a_text_does_not_rank_follows_by_cosine(
    searched: SearchedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "FUSED_DEPTH", 2)
    for number, height in enumerate([1, 5, 3, 4, 2]):
        searched.add(f"/music/{number}.wav", direction(x=height, y=1))
    searched.understand({"tone": direction(x=1)})
    with opened_page(searched) as page:
        assert page.names(text="tone") == ["1.wav", "3.wav", "2.wav", "4.wav", "0.wav"]


def test_without_a_model_of_texts_the_names_rank_and_a_note_says_so(searched: SearchedLibrary) -> None:
    searched.model = STAND_IN_MODEL
    add_all(searched, ["a.wav", "kick b.wav", "c.wav"])
    with opened_page(searched) as page:
        assert page.get("/api/library")["understands_texts"] is False
        assert page.search(text="kick")["notes"] == [
            "stand-in@0123456789ab does not understand texts: the words rank by names alone"
        ]
        assert page.names(text="kick") == ["kick b.wav", "a.wav", "c.wav"]
        assert page.search(text="zzqqx")["notes"][1:] == ["no name has these words: the stems are listed by path"]


def test_like_and_unlike_rank_by_sound(searched: SearchedLibrary) -> None:
    for number, height in enumerate([1, 3, 2]):
        searched.add(f"/music/{number}.wav", direction(x=height, y=1))
    with opened_page(searched) as page:
        first, second = (id_of(page, name) for name in ("0.wav", "1.wav"))
        assert page.names(like=[first]) == ["0.wav", "2.wav", "1.wav"]
        assert page.names(like=[first], unlike=[second])[-1] == "1.wav"
        assert page.rows(like=[first])[0]["cosine"] == pytest.approx(1, abs=1e-6)


def test_what_is_alike_is_asked_by_id_and_never_by_path(searched: SearchedLibrary, page: PageClient) -> None:
    searched.folder.joinpath("secret.wav").write_bytes(b"")
    for name in ("/music/Drums/kick.wav", str(searched.folder / "secret.wav"), "0" * 16):
        for part in ("like", "unlike"):
            assert "no stem has this id" in page.refused("/api/search", {part: [name]})


def test_stems_of_another_model_come_last_by_path(searched: SearchedLibrary) -> None:
    searched.add("/music/b.wav", direction(x=1, y=1))
    searched.add("/music/c.wav", direction(x=1))
    searched.model = STAND_IN_MODEL
    searched.add("/music/a.wav", direction(x=1))
    with opened_page(searched) as page:
        found = page.search(like=[id_of(page, "c.wav")])
        assert found["notes"] == ["1 rows have vectors of another model, which are not compared"]
        rows = page.get(f"/api/rows?result={found['result']}")["rows"]
        assert [(row["name"], row["cosine"]) for row in rows] == [("c.wav", 1.0), ("b.wav", 0.707107), ("a.wav", None)]


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("rank", "deep kick beat odd"),
        ("path", "deep kick beat odd"),
        ("bpm", "beat deep kick odd"),
        ("key", "deep kick beat odd"),
        ("category", "deep beat kick odd"),
        ("seconds", "kick odd deep beat"),
        ("rating", "odd beat deep kick"),
        ("-path", "odd beat kick deep"),
        ("-seconds", "beat deep odd kick"),
        ("-rating", "beat odd deep kick"),
    ],
)
def test_columns_sort_with_the_unknown_last(searched: SearchedLibrary, page: PageClient, sort: str, names: str) -> None:
    searched.change("UPDATE stems SET user_rating = 5 WHERE original_file LIKE '%odd%'")
    searched.change("UPDATE stems SET user_rating = 0 WHERE original_file LIKE '%beat%'")
    page.desk.opened.refresh(is_urgent=True)
    found = page.names(sort=sort.removeprefix("-"), reverse=sort.startswith("-"))
    assert [name.partition(".")[0] for name in found] == names.split()


def test_rows_come_page_by_page_with_their_ranks(page: PageClient) -> None:
    token = page.search()["result"]
    rows = page.get(f"/api/rows?result={token}&from=1&count=2")["rows"]
    assert [(row["rank"], row["name"]) for row in rows] == [(2, "kick.wav"), (3, "beat.wav")]
    assert page.get(f"/api/rows?result={token}&from=4")["rows"] == []


@pytest.mark.parametrize("number", ["-1", "x", "1e3", "²", "9" * 30])
def test_a_place_that_is_no_number_is_refused(page: PageClient, number: str) -> None:
    token = page.search()["result"]
    assert "give a whole number" in page.get(f"/api/rows?result={token}&from={number}", 400)["error"]


def test_the_last_results_are_kept_and_older_ones_are_gone(page: PageClient) -> None:
    tokens = [page.search()["result"] for _ in range(17)]
    assert "search again" in page.get(f"/api/rows?result={tokens[0]}", 410)["error"]
    for token in (tokens[1], tokens[16]):
        assert len(page.get(f"/api/rows?result={token}")["rows"]) == 4


@pytest.mark.parametrize("address", ["/api/rows?result=x", "/api/rows", "/api/export?format=csv&result=x"])
def test_a_result_that_never_was_is_gone(page: PageClient, address: str) -> None:
    assert "search again" in page.get(address, 410)["error"]


def test_the_histograms_count_the_rows_of_the_result(page: PageClient) -> None:
    histograms = page.search(categories=["drum_loop", "bass"])["histograms"]
    assert histograms["category"]["names"] == ["bass", "drum_loop", "kick"]
    assert histograms["category"]["counts"] == [1, 1, 0]
    assert sum(histograms["bpm"]["counts"]) == 1
    assert dict(zip(histograms["key"]["names"], histograms["key"]["counts"], strict=True))["Am"] == 1


def test_the_positions_of_a_result_and_their_ids_are_told(page: PageClient) -> None:
    token = page.search(sort="seconds")["result"]
    positions = np.frombuffer(page.http.get(f"/api/result/positions?result={token}").content, "<u4").tolist()
    assert positions == [0, 3, 2, 1]
    ids = page.send("POST", "/api/ids", {"positions": positions})["ids"]
    assert ids == [row["id"] for row in page.rows(sort="seconds")]
    assert page.get("/api/map/ids?from=1&count=2")["ids"] == [ids[3], ids[2]]


def test_the_categories_of_the_map_are_places_in_the_librarys(page: PageClient) -> None:
    assert list(page.http.get("/api/map/categories").content) == [2, 1, 0, 255]


def test_an_export_has_all_rows_as_the_command_line_writes_them(
    searched: SearchedLibrary, page: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "EXPORTED_ROWS", 3)
    token = page.search()["result"]
    for file_format, media_type in (("csv", "text/csv; charset=utf-8"), ("m3u", "audio/x-mpegurl")):
        written = searched.folder / f"stems.{file_format}"
        searched.run(f"--{file_format}", str(written), "--top", "0")
        answer = page.http.get(f"/api/export?result={token}&format={file_format}")
        assert answer.content == written.read_bytes()
        assert answer.headers["content-type"] == media_type
        assert answer.headers["content-disposition"] == f'attachment; filename="stems.{file_format}"'


def test_an_export_of_nothing_has_its_first_line(page: PageClient) -> None:
    token = page.search(categories=["none"])["result"]
    assert page.http.get(f"/api/export?result={token}&format=m3u").text == "#EXTM3U\n"
    assert page.get(f"/api/export?result={token}&format=exe", 400)["error"] == "format: give one of m3u, csv"


def test_the_quarantine_is_listed_with_its_reasons(searched: SearchedLibrary, page: PageClient) -> None:
    for name, error in (("a", "NoSamples: no audio: none"), ("b", "Timeout")):
        values = (f"/music/{name}\n.wav", f"/q/ERROR_{name}.wav", error, f"2026-01-0{1 + (name == 'b')}")
        searched.change("INSERT INTO quarantined VALUES (?, 1, 2, ?, ?, ?)", *values)
    listed = page.get("/api/quarantine")
    assert listed["total"] == 2
    assert [(row["name"], row["reason"], row["error"], row["when"]) for row in listed["rows"]] == [
        ("b\\n.wav", "Timeout", "Timeout", "2026-01-02"),
        ("a\\n.wav", "NoSamples", "no audio: none", "2026-01-01"),
    ]
    assert len(page.get("/api/quarantine?from=1&count=5")["rows"]) == 1
    assert page.get("/api/library")["quarantined"] == 2


def test_an_empty_database_has_an_empty_page(searched: SearchedLibrary) -> None:
    add_all(searched, ["kick.wav"])
    searched.change("DELETE FROM stems")
    searched.understand({"kick": direction(x=1)})
    with opened_page(searched) as page:
        assert page.names() == page.names(text="kick") == []
        assert page.get("/api/library")["rows"] == 0
