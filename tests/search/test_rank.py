"""Ranking: by cosine, by names, and by both, with constructed vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio_files import write_tone
from fake_clap import FakeClap
from libraries import PUBLISHED_MODEL, STAND_IN_MODEL, SearchedLibrary, add_all, direction
from patching import replace_name
from stem_dataset.errors import UsageError, WeightsMissing
from stem_dataset.search import rank, text_index
from stem_dataset.search.rank import best, combined, cosines, fused, in_order


@pytest.fixture
def drums(searched: SearchedLibrary) -> SearchedLibrary:
    """Kicks along x, snares along y, one between them."""
    searched.add("/music/Drums/kick dark.wav", direction(x=1, z=0.1))
    searched.add("/music/Drums/one.wav", direction(x=1))
    searched.add("/music/Drums/two.wav", direction(x=1, y=1))
    searched.add("/music/Drums/snare.wav", direction(y=1), category="snare")
    return searched


def test_a_stem_finds_those_that_sound_like_it_with_itself_first(drums: SearchedLibrary) -> None:
    # The file is gone, and its vector is there.
    assert drums.names("--like", "/music/Drums/one.wav")[0] == "one.wav"


def test_a_stem_is_named_by_its_id(drums: SearchedLibrary) -> None:
    ids = {hit["file_name"]: hit["id"] for hit in drums.json()}
    found = drums.json("--like", ids["one.wav"])
    assert [hit["file_name"] for hit in found] == ["one.wav", "kick dark.wav", "two.wav", "snare.wav"]
    assert [round(hit["cosine"], 3) for hit in found] == [1.0, 0.995, 0.707, 0.0]


def test_unlike_moves_the_query_away(drums: SearchedLibrary) -> None:
    ids = {hit["file_name"]: hit["id"] for hit in drums.json()}
    assert drums.names("--like", ids["two.wav"], "--unlike", ids["one.wav"])[:2] == ["snare.wav", "two.wav"]
    assert drums.names("--unlike", ids["one.wav"])[0] == "snare.wav"


def test_a_filter_comes_before_the_rank(drums: SearchedLibrary) -> None:
    ids = {hit["file_name"]: hit["id"] for hit in drums.json()}
    found = drums.json("--like", ids["one.wav"], "--category", "snare", "--top", "1")
    assert [(hit["rank"], hit["file_name"]) for hit in found] == [(1, "snare.wav")]


def test_a_text_is_ranked_by_its_vector_and_by_the_names(drums: SearchedLibrary) -> None:
    drums.understand({"snare": direction(x=1), "thump": direction(x=1)})
    assert drums.names("thump") == ["one.wav", "kick dark.wav", "two.wav", "snare.wav"]
    # Last by sound and first by name: 1/64 + 1/61 is more than 1/61.
    assert drums.names("snare")[0] == "snare.wav"
    assert drums.json("snare")[0]["cosine"] == pytest.approx(0, abs=1e-6)


def test_a_text_and_a_sound_are_one_query(drums: SearchedLibrary) -> None:
    drums.understand({"thump": direction(x=1)})
    ids = {hit["file_name"]: hit["id"] for hit in drums.json()}
    assert drums.names("thump", "--like", ids["snare.wav"])[0] == "two.wav"


def test_a_text_may_be_unwanted(drums: SearchedLibrary) -> None:
    drums.understand({"thump": direction(x=1)})
    assert drums.names("--unlike", "thump")[0] == "snare.wav"


def test_a_model_that_does_not_understand_texts_says_so_and_ranks_by_names(searched: SearchedLibrary) -> None:
    searched.model = STAND_IN_MODEL
    add_all(searched, ["Kick_dark.wav", "DarkKick02.wav", "pad.wav", "Dark/pad.wav"])
    found = searched.json("dark kick")
    assert [hit["file_name"] for hit in found] == ["Kick_dark.wav", "DarkKick02.wav", "pad.wav"]
    assert {hit["cosine"] for hit in found} == {None}
    assert searched.messages.count("\n") == 1
    assert "stand-in@0123456789ab does not understand texts: the words rank by names alone" in searched.messages


@pytest.mark.parametrize("word", ["hihat", "hi hat", "HiHat", "hats hi", 'hi"hat', "hi* -hat"])
def test_words_are_found_as_people_write_them(searched: SearchedLibrary, word: str) -> None:
    searched.model = STAND_IN_MODEL
    add_all(searched, ["HiHat_open02.wav", "kick.wav"])
    assert searched.names(word) == ["HiHat_open02.wav"]


@pytest.mark.parametrize("name", ["kicks.wav", "Bässe/808kick.wav", "KICK.wav", "FXKick1.wav", "a_kick-b.wav"])
def test_a_word_is_found_in_a_name(searched: SearchedLibrary, name: str) -> None:
    searched.model = STAND_IN_MODEL
    add_all(searched, [name, "sidekick.wav"])
    assert searched.names("kick") == [name.rpartition("/")[2]]


def test_a_word_is_found_in_tags_and_folders(searched: SearchedLibrary) -> None:
    searched.model = STAND_IN_MODEL
    searched.add("/music/Warm/a.wav")
    searched.add("/music/b.wav", tags='["warm", "soft"]')
    searched.add("/music/warm.wav")
    searched.add("/music/c.wav")
    assert searched.names("warm") == ["warm.wav", "a.wav", "b.wav"]


def test_a_query_without_a_word_finds_nothing_by_name(searched: SearchedLibrary) -> None:
    searched.model = STAND_IN_MODEL
    add_all(searched, ["kick.wav"])
    assert searched.names("?!") == []


def test_vectors_of_another_model_are_not_compared(drums: SearchedLibrary) -> None:
    drums.add("/music/other.wav", direction(x=1), embedding_model="other@0123456789ab/f32/10s-max8")
    drums.understand({"other": direction(x=1)})
    found = drums.json("other")
    assert "1 rows have vectors of another model" in drums.messages
    assert {hit["file_name"]: hit["cosine"] for hit in found}["other.wav"] is None
    assert len(found) == 5


def test_an_audio_file_from_elsewhere_is_embedded_as_the_preparer_does(
    searched: SearchedLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeClap()
    replace_name(monkeypatch, "load_clap", lambda *_: model)
    tone, other = model.get_text_embedding(["440 Hz", "3000 Hz"])
    reference = model.reference.astype("<f4").tobytes()
    searched.add("/music/tone.wav", tone)
    searched.add("/music/other.wav", other)
    searched.change("UPDATE provenance SET embedding_model = ?, reference_vector = ?", searched.model, reference)
    file = write_tone(tmp_path / "mine.wav", hz=440, seconds=0.05)
    found = searched.json("--like", str(file))
    assert [hit["file_name"] for hit in found] == ["tone.wav", "other.wav"]
    assert found[0]["cosine"] == pytest.approx(1, abs=1e-3)


def test_an_engine_that_makes_other_vectors_is_refused(
    searched: SearchedLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "load_clap", lambda *_: FakeClap())
    searched.add("/music/tone.wav")
    searched.change("UPDATE provenance SET embedding_model = ?", searched.model)
    searched.run("--like", str(write_tone(tmp_path / "mine.wav")), exit_code=4)
    assert "makes other vectors" in searched.messages


def test_a_sound_that_is_no_audio_is_a_usage_error(
    searched: SearchedLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "load_clap", lambda *_: FakeClap())
    searched.add("/music/kick.wav")
    searched.change("DELETE FROM provenance")
    file = tmp_path / "text.wav"
    file.write_text("no audio at all")
    searched.run("--like", str(file), exit_code=2)
    assert "cannot be decoded" in searched.messages


def test_a_sound_that_is_nowhere_is_a_usage_error(drums: SearchedLibrary) -> None:
    drums.run("--like", "nowhere.wav", exit_code=2)
    assert "--like nowhere.wav: neither the id of a stem nor a file" in drums.messages


# -- the arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 50])
def test_cosines_of_blocks_are_those_of_the_whole(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "BLOCK_ROWS", 7)
    dice = np.random.default_rng(1)
    vectors = dice.standard_normal((200, 512), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = np.arange(2, 200, step)
    np.testing.assert_allclose(cosines(vectors, kept, vectors[5]), vectors[kept] @ vectors[5], atol=1e-6)


def test_the_best_are_those_of_a_full_sort() -> None:
    scores = np.random.default_rng(1).integers(0, 50, 300).astype(np.float32)
    expected = np.argsort(-scores, kind="stable")
    assert scores[best(scores, 20)].tolist() == scores[expected[:20]].tolist()
    assert best(scores, 999).tolist() == expected.tolist()
    assert best(scores[:0], 5).tolist() == []


def test_all_in_order_are_those_of_a_stable_sort() -> None:
    dice = np.random.default_rng(1)
    scores = np.round(dice.standard_normal(2_000), 2).astype(np.float32)
    scores[dice.integers(0, 2_000, 50)] = 0.0
    scores[dice.integers(0, 2_000, 50)] = -0.0
    scores[:8] = [np.nan, np.inf, -np.inf, 1e-45, -1e-45, -np.nan, 3e38, -3e38]
    assert in_order(scores).tolist() == np.argsort(-scores, kind="stable").tolist()
    assert in_order(scores[:0]).tolist() == []


def test_fusion_follows_the_paper() -> None:
    # 7: 1/61 + 1/62; 5: 1/61 alone; 9: 1/62 alone
    assert fused([[5, 7], [7, 9]]) == [7, 5, 9]
    # Third twice is better than first once: 2/63 is more than 1/61.
    assert fused([[1, 8, 2], [6, 7, 2]])[0] == 2
    # Equal scores keep the order of the first ranking.
    assert fused([[1, 2], [2, 1]]) == [1, 2]


def test_what_cancels_out_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cancel"):
        combined([direction(x=1), direction(x=-1)], [])


def test_a_common_word_counts_in_file_names_alone(searched: SearchedLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_index, "COMMON_ROWS", 2)
    searched.model = STAND_IN_MODEL
    searched.add("/music/dark.wav")
    for number in range(3):
        searched.add(f"/music/{number}.wav", tags='["dark"]')
    assert searched.names("dark") == ["dark.wav"]
    searched.add("/music/Dark/4.wav")
    assert searched.names("dark") == ["dark.wav", "4.wav"]
    searched.add("/music/Dark/5.wav")
    assert searched.names("dark") == ["dark.wav"]


def test_a_text_of_a_thousand_words_is_searched_for_by_its_first(searched: SearchedLibrary) -> None:
    searched.model = STAND_IN_MODEL
    add_all(searched, ["kick.wav"])
    assert searched.names("kick " + " ".join(f"word{number}x" for number in range(1_000))) == ["kick.wav"]


def test_equally_good_names_are_ranked_by_sound_or_by_path(searched: SearchedLibrary) -> None:
    for number, share in ((3, 0.2), (1, 0.4), (2, 0.9)):
        searched.add(f"/music/kick{number}.wav", direction(x=share, y=1))
    searched.understand({"kick": direction(x=1)})
    assert searched.names("kick") == ["kick2.wav", "kick1.wav", "kick3.wav"]
    searched.change("UPDATE stems SET embedding_model = ?", STAND_IN_MODEL)
    assert searched.names("kick") == ["kick1.wav", "kick2.wav", "kick3.wav"]


@pytest.mark.parametrize("model", [STAND_IN_MODEL, PUBLISHED_MODEL])
def test_a_filter_holds_for_names_too(searched: SearchedLibrary, model: str) -> None:
    searched.model = model
    searched.understand({"kick": direction(x=1)})
    searched.add("/music/a kick.wav", direction(y=1), category="kick")
    searched.add("/music/b kick.wav", direction(y=1), category="loop")
    assert searched.names("kick", "--category", "loop") == ["b kick.wav"]


def test_a_new_text_is_embedded_once_and_kept(drums: SearchedLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Module:
        def get_text_embedding(self, texts: list[str]) -> np.ndarray[Any, Any]:
            asked.extend(texts)
            return direction(y=1)[np.newaxis]

    replace_name(monkeypatch, "load_text_tower", lambda *_: Module())
    replace_name(monkeypatch, "load_module", lambda *_: Module())  # where openvino has no wheel
    for _ in range(2):
        assert drums.names("a tight crack")[0] == "snare.wav"
    assert asked == ["a tight crack"]


def test_a_text_without_weights_ends_with_3(drums: SearchedLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_weights(*_: object) -> None:
        raise WeightsMissing("no weights here")

    replace_name(monkeypatch, "load_module", no_weights)
    drums.run("a tight crack", exit_code=3)
    assert "no weights here" in drums.messages
    # A filter that nothing passes needs none.
    assert drums.names("a tight crack", "--loops") == []
