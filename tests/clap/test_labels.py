"""Tags and categories by CLAP: how they are ranked, when there are none, and that a run writes them."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import audio_files
from audio_files import write_tone
from fake_clap import FakeClap
from stem_dataset.clap.checkpoints import ModelCache
from stem_dataset.clap.engine import ClapModel, TextVectors
from stem_dataset.clap.labels import NO_PALETTE, Palette, described_by_clap, embed_palette, nearest_texts
from stem_dataset.config import Config
from stem_dataset.datatypes import StoredStem
from stem_dataset.errors import RunStopped
from vectors import ROUNDING, cosines
from workplace import REPOSITORY, Workplace

Vector = npt.NDArray[np.float32]


def unit(*values: float) -> Vector:
    """Return a vector, (512,), of unit length with these first numbers."""
    vector = np.zeros(512)
    vector[: len(values)] = values
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def palette(**vectors: Vector) -> Palette:
    return Palette(list(vectors), np.stack(list(vectors.values())))


TAGS = palette(dark=unit(1), punchy=unit(0, 1), gritty=unit(0, 0, 1), minimal=unit(0, 0, 0, 1))
CATEGORIES = palette(kick=unit(1), pad=unit(0, 1))
STEM = StoredStem("0", "/a.wav", None, "", "", "unknown", "[]", '{"rms": 0.5}', 1, b"")


def described(vector: Vector, tags: Palette = TAGS, categories: Palette = CATEGORIES, **changes: Any) -> StoredStem:
    return described_by_clap(dataclasses.replace(STEM, **changes), vector, tags, categories)


# -- the ranking -------------------------------------------------------------------------------------------------------


def test_the_nearest_comes_first_with_its_cosine() -> None:
    ranking = nearest_texts(unit(0.48, 0.6, -0.64), TAGS)
    assert [name for name, _ in ranking] == ["punchy", "dark", "minimal", "gritty"]
    assert [cosine for _, cosine in ranking] == pytest.approx([0.6, 0.48, 0, -0.64])


def test_of_equals_the_one_that_comes_first_in_the_palette_is_first() -> None:
    dice = np.random.default_rng(3)
    row = dice.normal(size=512)
    names = [f"tag {number}" for number in range(37)]
    equal = Palette(names, np.tile(unit(*row), (37, 1)))
    ranking = nearest_texts(unit(*dice.normal(size=512)), equal)
    assert [name for name, _ in ranking] == names
    assert len({cosine for _, cosine in ranking}) == 1


def test_a_stem_has_the_three_nearest_tags_best_first() -> None:
    assert json.loads(described(unit(1, 4, 3, 2)).tags) == ["punchy", "gritty", "minimal"]


@pytest.mark.parametrize(("names", "tags"), [(["dark", "punchy"], ["punchy", "dark"]), (["dark"], ["dark"]), ([], [])])
def test_a_palette_of_fewer_gives_fewer(names: list[str], tags: list[str]) -> None:
    short = Palette(names, TAGS.vectors[: len(names)])
    assert json.loads(described(unit(1, 2), tags=short).tags) == tags


def test_a_tag_in_any_script_is_found_by_its_letters() -> None:
    stem = described(unit(1), tags=palette(**{"düster": unit(1), "\ud800": unit(0, 1)}))
    assert '"düster"' in stem.tags
    assert json.loads(stem.tags) == ["düster", "\ud800"]
    assert stem.tags.encode()  # SQLite takes it


# -- the category ------------------------------------------------------------------------------------------------------


def test_the_nearest_category_is_taken_and_its_cosine_kept() -> None:
    stem = described(unit(0.6, 0.8))
    assert stem.category == "pad"
    features = json.loads(stem.features)
    assert features == {"rms": 0.5, "category_source": "clap", "category_cosine": pytest.approx(0.8)}


@pytest.mark.parametrize("features", ['{"category_source": "name"}', "{}"], ids=["this version", "an older one"])
def test_a_category_that_a_name_tells_stays(features: str) -> None:
    stem = described(unit(0, 1), category="kick", features=features)
    assert stem.category == "kick"
    assert json.loads(stem.features) == {"category_source": "name", "category_cosine": None}
    assert json.loads(stem.tags)[0] == "punchy"


def test_a_category_that_clap_told_is_told_anew() -> None:
    first = described(unit(1))
    second = described_by_clap(first, unit(0, 1), TAGS, CATEGORIES)
    assert (first.category, second.category) == ("kick", "pad")
    assert second == described(unit(0, 1))


def test_without_palettes_there_is_nothing_to_tell_and_what_was_told_goes() -> None:
    stem = described_by_clap(described(unit(1)), unit(1), NO_PALETTE, NO_PALETTE)
    assert (stem.category, stem.tags) == ("unknown", "[]")
    assert json.loads(stem.features) == {"rms": 0.5, "category_source": None, "category_cosine": None}


def test_a_stem_of_poor_quality_gets_neither_and_keeps_what_its_name_tells() -> None:
    stem = described(unit(1), quality_ok=0)
    assert (stem.category, stem.tags) == ("unknown", "[]")
    assert json.loads(stem.features)["category_cosine"] is None
    stem = described(unit(0, 1), quality_ok=0, category="kick")
    assert (stem.category, stem.tags) == ("kick", "[]")


# -- the texts ---------------------------------------------------------------------------------------------------------


class TextClap(FakeClap):
    """A model that remembers its texts; of each it makes the vector that the test says."""

    def __init__(self, vectors: dict[str, Vector]) -> None:
        super().__init__()
        self.vectors = vectors
        self.texts: list[str] = []

    def get_text_embedding(self, x: Sequence[str]) -> Vector:
        self.texts += x
        return np.stack([self.vectors[text] for text in x])


def test_a_name_has_the_mean_of_its_prompts_normalised_again() -> None:
    model = TextClap({"a": unit(1), "b": unit(0, 1), "c": unit(0, 0, 1), "d": unit(1, 1)})
    made = embed_palette(model, {"first": ["a", "b", "c"], "second": ["d"]})
    assert made.names == ["first", "second"]
    np.testing.assert_allclose(made.vectors, [unit(1, 1, 1), unit(1, 1)], atol=1e-7)
    assert model.texts == ["a", "b", "c", "d"]


def test_no_prompts_ask_no_model() -> None:
    model = TextClap({})
    assert embed_palette(model, {}) is NO_PALETTE
    assert model.texts == []


@pytest.mark.parametrize("bad", [np.full(512, np.nan), np.zeros(512), np.full(512, 1.0), unit(1)[:511]])
def test_bad_vectors_of_texts_stop_the_run(bad: Vector) -> None:
    with pytest.raises(RunStopped, match="its vectors of 1 texts"):
        embed_palette(TextClap({"a": bad}), {"dark": ["a"]})


def test_texts_that_an_earlier_run_has_read_need_no_text_model(tmp_path: Path) -> None:
    def model(load: Any) -> ClapModel:
        clap: Any = FakeClap()
        clap.get_text_embedding = TextVectors(tmp_path / "texts.npz", ModelCache(tmp_path), load).of
        return clap  # type: ignore[no-any-return]

    prompts = {"dark": ["a dark sound", "gloom"], "punchy": ["a punchy sound"]}
    first = embed_palette(model(FakeClap), prompts)
    second = embed_palette(model(lambda: pytest.fail("the text model was loaded")), prompts)
    assert np.array_equal(first.vectors, second.vectors)


# -- a run -------------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "tags": {"low": ["200 Hz"], "middle": ["1400 Hz", "1600 Hz"], "high": ["2500 Hz"], "top": ["2900 Hz"]},
    "category_prompts": {"bass": ["200 Hz"], "lead": ["1500 Hz"], "hat": ["2500 Hz"]},
}


def write_stems(place: Workplace) -> None:
    write_tone(place.input / "1.wav", hz=190)
    write_tone(place.input / "2.wav", hz=1500)
    write_tone(place.input / "3.wav", hz=2600)
    write_tone(place.input / "Kicks" / "4.wav", hz=2600)
    soundfile.write(place.input / "silence.wav", np.zeros(4_800), 48_000)


EXPECTED = [("bass", "low"), ("lead", "middle"), ("hat", "high"), ("kick", "high"), ("unknown", None)]


def told(place: Workplace) -> list[tuple[str, str | None]]:
    """Return each row's category and first tag."""
    return [(row["category"], next(iter(json.loads(row["tags"])), None)) for row in place.rows()]


def sources(place: Workplace) -> list[str | None]:
    return [json.loads(row["features"])["category_source"] for row in place.rows()]


def test_a_run_with_a_published_checkpoint_ends_with_tags_and_categories(workplace: Workplace) -> None:
    write_stems(workplace)
    config = workplace.folder / "settings.yaml"
    config.write_text(json.dumps({**SETTINGS, "categories": {"kick": ["kick"]}}))  # JSON is YAML
    result = workplace.execute("--config", str(config), faults={"measure": True})  # one of them is silent
    assert result.returncode == 0, result.stderr
    assert told(workplace) == EXPECTED
    assert sources(workplace) == ["clap", "clap", "clap", "name", None]
    assert [len(json.loads(row["tags"])) for row in workplace.rows()] == [3, 3, 3, 3, 0]
    for row in workplace.rows()[:3]:
        texts = SETTINGS["category_prompts"][row["category"]]
        (cosine,) = cosines(FakeClap().get_text_embedding(texts), [np.frombuffer(row["clap_embedding"], "<f4")])
        # The program's is in float64, too, of vectors that were rounded to float32: the row's once, the text's twice.
        assert json.loads(row["features"])["category_cosine"] == pytest.approx(cosine, abs=6 * ROUNDING)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    audio_files.use_inline_workers(monkeypatch)


@pytest.mark.usefixtures("inline")
def test_a_run_with_any_other_checkpoint_tells_nothing_and_reads_no_text(workplace: Workplace) -> None:
    write_stems(workplace)
    checkpoint = workplace.folder / "modified.pt"
    checkpoint.write_bytes(b"\x80 no published checkpoint")
    model = TextClap({})
    workplace.run(model, checkpoint=str(checkpoint), **SETTINGS)
    assert told(workplace) == [("unknown", None)] * 3 + [("kick", None), ("unknown", None)]
    assert sources(workplace) == [None, None, None, "name", None]
    assert model.texts == []


@pytest.mark.usefixtures("inline")
def test_empty_palettes_switch_it_off(workplace: Workplace) -> None:
    write_stems(workplace)
    workplace.run(tags={}, category_prompts={})
    assert told(workplace) == [("unknown", None)] * 3 + [("kick", None), ("unknown", None)]


@pytest.mark.usefixtures("inline")
def test_the_texts_are_read_once_a_run_and_before_the_first_file(workplace: Workplace) -> None:
    write_stems(workplace)
    calls: list[str] = []

    class Notes(FakeClap):
        def get_audio_embedding_from_data(self, x: Any) -> Vector:
            calls.append("audio")
            return super().get_audio_embedding_from_data(x)

        @property
        def reference(self) -> Vector:
            return FakeClap().reference

        def get_text_embedding(self, x: Sequence[str]) -> Vector:
            calls.append("text")
            return super().get_text_embedding(x)

    workplace.run(Notes(), batch_windows=1, **SETTINGS)
    assert calls == ["text"] * 2 + ["audio"] * 4  # two of the five stems are the same sound


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("error", [RuntimeError("no kernel"), ImportError("no torch"), MemoryError()])
def test_texts_that_cannot_be_read_stop_the_run_before_any_file(workplace: Workplace, error: Exception) -> None:
    class Fails(FakeClap):
        def get_text_embedding(self, x: Sequence[str]) -> Vector:
            raise error

    write_stems(workplace)
    before = audio_files.tree(workplace.input)
    with pytest.raises(RunStopped, match=f"CLAP cannot be loaded: {type(error).__name__}"):
        workplace.run(Fails())
    assert audio_files.tree(workplace.input) == before
    assert workplace.rows() == []


# -- --re-embed --------------------------------------------------------------------------------------------------------


class Inverted(FakeClap):
    """Another model, to which low is high."""

    engine = "inverted/cpu"

    def get_text_embedding(self, x: Sequence[str]) -> Vector:
        return super().get_text_embedding([f"{3000 - float(text.removesuffix(' Hz')):g} Hz" for text in x])


@pytest.fixture
def filled(workplace: Workplace, inline: None) -> Workplace:
    write_stems(workplace)
    workplace.run(**SETTINGS)
    assert told(workplace) == EXPECTED
    return workplace


def test_re_embed_tells_all_but_names_anew_as_an_import_would(filled: Workplace, tmp_path: Path) -> None:
    assert filled.re_embed(Inverted(), precision="bf16", batch_windows=2, **SETTINGS).re_embedded == 5
    fresh = Workplace(tmp_path / "fresh")
    write_stems(fresh)
    fresh.run(Inverted(), precision="bf16", **SETTINGS)
    columns = ("category", "tags", "features", "clap_embedding")
    assert [[row[c] for c in columns] for row in filled.rows()] == [[row[c] for c in columns] for row in fresh.rows()]
    assert told(filled) == [("hat", "top"), ("lead", "middle"), ("bass", "low"), ("kick", "low"), ("unknown", None)]
    assert sources(filled) == ["clap", "clap", "clap", "name", None]


def test_re_embed_with_any_other_checkpoint_takes_back_what_clap_told(filled: Workplace) -> None:
    checkpoint = filled.folder / "modified.pt"
    checkpoint.write_bytes(b"\x80 no published checkpoint")
    filled.re_embed(TextClap({}), checkpoint=str(checkpoint), **SETTINGS)
    assert told(filled) == [("unknown", None)] * 3 + [("kick", None), ("unknown", None)]
    assert sources(filled) == [None, None, None, "name", None]


def test_re_embed_leaves_a_row_with_a_bad_vector_as_it_was(filled: Workplace) -> None:
    class Bad(Inverted):
        def vector(self, window: Vector) -> Vector:
            vector = super().vector(window)
            return vector * (np.nan if len(window) == 4_800 else 1)  # silence.wav

    before = filled.rows()
    assert filled.re_embed(Bad(), precision="bf16", **SETTINGS).failed == 1
    assert filled.rows()[4] == before[4]
    assert filled.rows()[0]["tags"] != before[0]["tags"]


# -- benchmarks/calibrate_clap.py --------------------------------------------------------------------------------------


@pytest.fixture
def calibration(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("calibrate_clap")


def test_calibration_prints_each_labels_cosines_the_accuracy_and_the_mistakes(
    calibration: Any, workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, hz in {"bass/1.wav": 200, "bass/2.wav": 200, "hat/high/1.wav": 2500, "hat/2.wav": 200}.items():
        write_tone(workplace.input / name, hz=hz)
    audio_files.write_text(workplace.input / "bass" / "broken.wav")
    before = audio_files.tree(workplace.input)
    monkeypatch.setattr(calibration, "load_clap", lambda *_: FakeClap())
    config = workplace.folder / "settings.yaml"
    config.write_text(json.dumps({**SETTINGS, "model_cache": str(workplace.folder / "cache")}))
    assert calibration.main([str(workplace.input), "--config", str(config), "--labels", "folder"]) == 0
    captured = capsys.readouterr()
    table = {words[0]: words[1:] for words in map(str.split, captured.out.splitlines()) if words}
    assert table["bass"][:7] == ["2", *["1.000"] * 5, "2"]
    assert table["hat"][0] == "2"
    assert table["hat"][5] == "1.000"
    assert float(table["hat"][1]) < 0.9
    assert table["lead"][:7] == ["0", *["-"] * 5, "4"]
    assert table["high"][0] == "1"
    assert "zero-shot over 4 files: top 1 75.0%, top 3 100.0%" in captured.out
    assert "     1  hat taken for bass" in captured.out
    assert "left out" in captured.err
    assert audio_files.tree(workplace.input) == before


def test_labels_of_names_are_those_of_the_program(calibration: Any) -> None:
    config = Config(categories={"kick": ["bd"]}, tags={"dark": ["a"], "low": ["b"]})
    labels = calibration.labels_of_names(Path("/pack/Dark/BD_01.wav"), Path("/pack"), config)
    assert labels == {"kick", "dark"}


def test_calibration_refuses_any_other_checkpoint(
    calibration: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.pt").write_bytes(b"\x80 no published checkpoint")
    monkeypatch.setattr(calibration, "load_clap", lambda *_: FakeClap())
    flags = [str(tmp_path), "--checkpoint", str(tmp_path / "my.pt"), "--model-cache", str(tmp_path / "cache")]
    assert calibration.main(flags) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--anyway" in captured.err
    assert calibration.main([*flags, "--anyway"]) == 0
    assert "these numbers show that the script runs, and mean nothing" in capsys.readouterr().out
