"""What needs the real laion_clap, with the stand-in for its weights: the main job as a user runs it, and its vectors.

Loading CLAP takes ten seconds and over a gigabyte: by `--dist loadfile` one process has this module, and loads once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import io
import itertools
import json
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import make_clap
import prepare_dataset_sql as product
from fake_clap import is_reference
from patching import replace_name
from stem_dataset.clap.checkpoints import PATCH_EMBEDDING, ModelCache, Weights, identify_weights
from stem_dataset.clap.engine import ClapModel, TextVectors, UnprovedVectors, check_engine
from stem_dataset.clap.openvino_engine import import_openvino
from stem_dataset.clap.session import load_clap
from stem_dataset.clap.text_tower import TextTower, load_text_tower
from stem_dataset.clap.torch_engine import TorchCpuClap, stock_reference
from stem_dataset.config import Config, load_config
from stem_dataset.datatypes import EMBEDDING_SIZE
from stem_dataset.errors import WeightsMissing
from stem_dataset.resources import usable_cores
from stem_dataset.search.query_vectors import QueryVectors
from vectors import ROUNDING, assert_a_swap_would_show, assert_same_vectors, cosines
from workplace import REPOSITORY, Watch, Workplace, run_program, run_python

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")  # laion_clap calls it as it was called once

VALID, BROKEN = 71, 3
WINDOWS = 73  # 70 files of one, and the 25 s piece of three
PIECE = "Full Pieces/piece_96bpm_Am.flac"
Vector = npt.NDArray[np.float32]


# -- the model -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub_cache(stand_in: Path) -> Iterator[None]:
    """Let this process's client, which may be imported already, find the stand-in's text model, and nothing else."""
    import huggingface_hub.constants as constants
    import torch

    torch.set_num_threads(1)  # threads on cores that others use wait for each other: 1.8 s a window instead of 0.3
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HF_HUB_CACHE", str(stand_in / "hub")), ("HF_HUB_OFFLINE", True)):
            patch.setattr(constants, name, value)
            patch.setenv(name, str(int(value)) if isinstance(value, bool) else value)
        patch.setenv("HF_HUB_DISABLE_XET", "1")  # load_clap sets it; this is to have it undone
        yield


def config(stand_in: Path, model_cache: Path, **settings: Any) -> Config:
    return Config(checkpoint=str(stand_in / "stand-in.pt"), model_cache=model_cache, device="cpu", **settings)


def load(config: Config) -> ClapModel:
    """Load CLAP as the program does."""
    cache = ModelCache(config.model_cache)
    return load_clap(identify_weights(config.checkpoint, cache), config)


@pytest.fixture(scope="module")
def clap(stand_in: Path, model_cache: Path, hub_cache: None) -> ClapModel:
    """The stand-in, loaded as the program does: by OpenVINO, from the model cache."""
    return load(config(stand_in, model_cache))


@pytest.fixture(scope="module")
def stock(hub_cache: None, stand_in: Path) -> Any:
    """The same weights, loaded by stock laion_clap: the oracle."""
    import laion_clap

    module = laion_clap.CLAP_Module(enable_fusion=False, device="cpu", amodel="HTSAT-tiny")
    with contextlib.redirect_stdout(io.StringIO()):
        module.load_ckpt(str(stand_in / "stand-in.pt"), verbose=False)
    return module


def stock_vector(stock: Any, samples: Vector) -> Vector:
    import torch

    with torch.no_grad():
        vector: Vector = stock.get_audio_embedding_from_data([samples])[0]
    return vector


class CountingClap:
    """The real model, which remembers the size of each call but those with the reference signal."""

    def __init__(self, clap: ClapModel) -> None:
        self.clap = clap
        self.call_sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.clap, name)

    def get_audio_embedding_from_data(self, x: Sequence[Vector]) -> Vector:
        if not is_reference(x):
            self.call_sizes.append(len(x))
        return self.clap.get_audio_embedding_from_data(x)


def vector(row: dict[str, Any]) -> Vector:
    return np.frombuffer(row["clap_embedding"], "<f4")


# -- the main job, as a user runs it ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """`python prepare_dataset_sql.py` on the 74 fixtures, with a model cache that an earlier run has filled."""

    place: Workplace
    result: subprocess.CompletedProcess[str]
    watch: Watch

    @property
    def log_text(self) -> str:
        return self.place.log_file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(library: Path, stand_in: Path, model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    place = Workplace(tmp_path_factory.mktemp("finished_with_clap"))
    shutil.copytree(library / "stems", place.input)
    flags = [*place.flags(), "--checkpoint", str(stand_in / "stand-in.pt"), "--device", "cpu"]
    watch = Watch(place.folder / "watch.txt")
    online = {"HF_HUB_OFFLINE": "0", **watch.environment}
    result = run_program(*flags, "--model-cache", str(model_cache), stand_in=stand_in, **online)
    return Finished(place, result, watch)


def test_71_rows_and_3_quarantined_files_end_with_0(finished: Finished) -> None:
    assert finished.result.returncode == 0, finished.result.stderr
    assert len(finished.place.rows()) == VALID
    quarantined = finished.place.quarantined()
    assert len(quarantined) == BROKEN
    for name in quarantined:
        entry = json.loads((finished.place.quarantine / f"{name}.json").read_text(encoding="utf-8"))
        assert not Path(entry["original_file"]).exists()
    assert sum(" ERROR " in line for line in finished.log_text.splitlines()) == BROKEN


def test_all_files_are_embedded_in_one_call(finished: Finished) -> None:
    calls = re.findall(r"embedding (\d+) windows of (\d+) files in one call", finished.log_text)
    assert calls == [(str(WINDOWS), str(VALID))]


def test_nothing_that_laion_clap_prints_reaches_the_user(finished: Finished) -> None:
    assert finished.result.stdout == ""
    assert "Loading weights" not in finished.result.stderr  # transformers' bar
    assert "Warning" not in finished.result.stderr


def test_a_run_with_the_stand_in_says_that_its_vectors_mean_nothing(finished: Finished, stand_in: Path) -> None:
    warnings = [line for line in finished.result.stderr.splitlines() if line.startswith("warning: ")]
    assert any("stand-in" in line and "its vectors mean nothing" in line for line in warnings)
    sha256 = hashlib.sha256((stand_in / "stand-in.pt").read_bytes()).hexdigest()
    texts = {row["embedding_model"] for row in finished.place.rows()}
    assert texts == {f"stand-in@{sha256[:12]}/f32/10s-max8"}


def test_a_warm_run_opens_no_connection_in_any_of_its_processes(finished: Finished) -> None:
    assert finished.result.returncode == 0
    assert finished.watch.noted("network") == []


def test_a_warm_run_imports_neither_torch_nor_what_stands_on_it(finished: Finished) -> None:
    assert finished.result.returncode == 0
    assert finished.watch.noted("import") == []


PUBLISHED = """
import sys, prepare_dataset_sql as product
from stem_dataset.clap.checkpoints import CHECKPOINTS, Checkpoint
from stem_dataset.files import sha256_of_path
digest = sha256_of_path(sys.argv[sys.argv.index("--checkpoint") + 1])
CHECKPOINTS.clear()
CHECKPOINTS["stand-in"] = Checkpoint("stand-in", "HTSAT-tiny", digest, None)
product.leave(product.main())
"""


def test_a_run_with_the_stand_in_invents_neither_tags_nor_categories(finished: Finished) -> None:
    rows = finished.place.rows()
    assert {row["tags"] for row in rows} == {"[]"}
    assert {json.loads(row["features"])["category_source"] for row in rows} == {"name", None}
    assert "no tags or categories by CLAP: stand-in is no published checkpoint" in finished.log_text


def test_were_it_published_its_own_texts_would_tell_and_a_warm_run_would_do_without_torch(
    clap: ClapModel,
    finished: Finished,
    library: Path,
    stand_in: Path,
    model_cache: Path,
    stock: Any,
    tmp_path: Path,
) -> None:
    told = []
    for name in ("cold", "warm"):
        place, watch = Workplace(tmp_path / name), Watch(tmp_path / f"{name}.txt")
        place.input.mkdir(parents=True)
        shutil.copy(library / "stems" / "Drums/Kicks/KICK_TIGHT.WAV", place.input / "1.wav")
        shutil.copy(library / "stems" / PIECE, place.input / "2.flac")
        flags = [*place.flags(), "--checkpoint", str(stand_in / "stand-in.pt"), "--model-cache", str(model_cache)]
        environment = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), watch.environment["PYTHONPATH"]])}
        environment["TEST_WATCH"] = watch.environment["TEST_WATCH"]
        result = run_python("-c", PUBLISHED, *flags, "--device", "cpu", stand_in=stand_in, **environment)
        assert result.returncode == 0, result.stderr
        told.append([(row["category"], row["tags"], row["features"]) for row in place.rows()])
    assert told[0] == told[1]
    assert watch.noted("import") == []

    def means(prompts: dict[str, list[str]]) -> dict[str, Vector]:
        texts = list(itertools.chain.from_iterable(prompts.values()))
        assert_same_vectors(clap.get_text_embedding(texts), stock.get_text_embedding(texts))
        of_texts = dict(zip(texts, clap.get_text_embedding(texts), strict=True))  # those that the run has kept
        return {
            name: np.mean([of_texts[text] for text in texts], axis=0, dtype=np.float64)
            for name, texts in prompts.items()
        }

    def nearest(row: dict[str, Any], means: dict[str, Vector]) -> tuple[list[str], float]:
        cosine = cosines(list(means.values()), [vector(row)] * len(means))
        return [list(means)[index] for index in np.argsort(-cosine)[:3]], cosine.max()

    configured = load_config(REPOSITORY / "config.yaml", {})
    tags, categories = means(configured.tags), means(configured.category_prompts)
    for row in place.rows():
        assert json.loads(row["tags"]) == nearest(row, tags)[0]
        names, cosine = nearest(row, categories)
        assert row["category"] == names[0]
        # Computed in float64 from the very same vectors: the mean of the texts and the row were each rounded once, and
        # so neither is of unit length but for a rounding.
        assert json.loads(row["features"])["category_cosine"] == pytest.approx(cosine, abs=4 * ROUNDING)


# -- the vectors -----------------------------------------------------------------------------------------------------


def test_every_vector_is_finite_and_of_unit_length_that_of_silence_too(finished: Finished) -> None:
    rows = finished.place.rows()
    assert "silence_1s.wav" in {Path(row["original_file"]).name for row in rows}
    vectors = np.array([vector(row) for row in rows])
    assert vectors.shape == (VALID, EMBEDDING_SIZE)
    assert np.isfinite(vectors).all()
    # The mean of the windows is normalised in float64, and each number then rounded once.
    assert np.linalg.norm(vectors.astype(np.float64), axis=1) == pytest.approx(1, abs=2 * ROUNDING)


def test_every_stored_vector_is_stock_laion_claps_for_that_row_and_no_other(finished: Finished, stock: Any) -> None:
    rows = finished.place.rows()
    samples = [soundfile.read(row["path"], dtype="float32")[0] for row in rows]
    pairs = [(vector(row), stock_vector(stock, y)) for row, y in zip(rows, samples, strict=True) if len(y) <= 480_000]
    stored, expected = (np.array(side) for side in zip(*pairs, strict=True))
    assert len(stored) == VALID - 1
    assert_a_swap_would_show(expected)
    assert_same_vectors(stored, expected)


def test_a_long_file_has_the_normalised_mean_of_stock_laion_claps_vectors(finished: Finished, stock: Any) -> None:
    (row,) = (row for row in finished.place.rows() if row["original_file"].endswith(PIECE))
    samples = soundfile.read(row["path"], dtype="float32")[0]
    assert len(samples) == 1_200_000
    windows = [samples[start : start + 480_000] for start in (0, 360_000, 720_000)]
    vectors = np.array([stock_vector(stock, window) for window in windows], np.float64)
    assert_same_vectors([vector(row)], [vectors.mean(axis=0)])
    one_dropped = [np.delete(vectors, window, axis=0).mean(axis=0) for window in range(3)]
    assert_a_swap_would_show([vectors.mean(axis=0), *one_dropped])


@pytest.mark.parametrize(("batch_windows", "workers", "sizes"), [(96, 1, [5]), (1, 3, [1, 1, 3])])
def test_batch_and_workers_do_not_change_a_vector(
    finished: Finished,
    clap: ClapModel,
    workplace: Workplace,
    library: Path,
    batch_windows: int,
    workers: int,
    sizes: list[int],
) -> None:
    stored = {Path(row["original_file"]).name: vector(row) for row in finished.place.rows()}
    for name in (PIECE, "Drums/Kicks/KICK_TIGHT.WAV", "Misc/silence_1s.wav"):
        shutil.copy(library / "stems" / name, workplace.input)
    counting = CountingClap(clap)
    workplace.run(counting, batch_windows=batch_windows, workers=workers)
    assert sorted(counting.call_sizes) == sizes
    rows = workplace.rows()
    assert len(rows) == 3
    expected = [stored[Path(row["original_file"]).name] for row in rows]
    assert_a_swap_would_show(expected)
    assert_same_vectors([vector(row) for row in rows], expected)


# -- the engines, against stock laion_clap ---------------------------------------------------------------------------


def seconds(duration_s: float) -> Vector:
    return np.arange(int(duration_s * 48_000), dtype=np.float32) / 48_000


def sounds() -> dict[str, Vector]:
    """Windows of every kind: odd ones, and one of each sort that the stand-in is made from."""
    rng = np.random.default_rng(7)
    noise = rng.uniform(-1, 1, 480_000).astype(np.float32)
    synthesisers = (make_clap.tone, make_clap.noise, make_clap.clicks, make_clap.sweep)
    made = {synthesise.__name__: synthesise(rng, seconds(0.3 + n)) / 9 for n, synthesise in enumerate(synthesisers)}
    return {
        "silence": np.zeros(48_000, np.float32),
        "one sample": np.full(1, 0.5, np.float32),
        "full-scale noise of ten seconds": noise,
        "one sample short of ten seconds": make_clap.clicks(rng, seconds(10))[1:],
        "a pure tone": np.sin(2 * np.pi * 440 * seconds(1)),
        "beyond full scale": 7 * noise[:100_000],
        **made,
    }


SOUNDS = sounds()
SHORT_LIST = list(SOUNDS.values())[-4:]


@pytest.fixture(scope="module")
def references(stock: Any) -> Vector:
    """Stock laion_clap's vectors of `SOUNDS`."""
    vectors = np.stack([stock_vector(stock, samples) for samples in SOUNDS.values()])
    assert_a_swap_would_show(vectors[1:])  # one sample, repeated, is silence
    return vectors


@pytest.fixture(scope="module")
def module(clap: ClapModel) -> Any:
    """The stand-in in laion_clap's own module, loaded by the product."""
    return clap.texts.load()  # type: ignore[attr-defined]


def no_texts() -> TextVectors:
    return TextVectors(Path("none"), ModelCache(Path("none")), dict)


def test_openvinos_vectors_are_stock_laion_claps(clap: ClapModel, references: Vector) -> None:
    assert clap.engine == "openvino/cpu"
    assert_same_vectors(clap.get_audio_embedding_from_data(list(SOUNDS.values())), references)


def test_openvinos_vectors_for_htsat_base_are_stock_laion_claps(
    stand_in: Path, hub_cache: None, tmp_path: Path
) -> None:
    stock = make_clap.new_model("HTSAT-base")
    make_clap.spread_out(stock.model.audio_branch)
    import torch

    torch.save(make_clap.checkpoint(stock, "HTSAT-base"), tmp_path / "base.pt")
    clap = load(Config(checkpoint=str(tmp_path / "base.pt"), model_cache=tmp_path / "cache", device="cpu"))
    assert (clap.engine, clap.architecture) == ("openvino/cpu", "HTSAT-base")
    expected = [stock_vector(stock, samples) for samples in SHORT_LIST]
    assert_same_vectors(clap.get_audio_embedding_from_data(SHORT_LIST), expected)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, len(SHORT_LIST) - 1)))
def test_any_split_of_a_list_has_the_same_vectors(clap: ClapModel, whole: Vector, cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(SHORT_LIST)]
    parts = [clap.get_audio_embedding_from_data(SHORT_LIST[a:b]) for a, b in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.fixture(scope="module")
def whole(clap: ClapModel) -> Vector:
    return clap.get_audio_embedding_from_data(SHORT_LIST)


def test_where_openvino_is_missing_torch_takes_its_place_and_says_so_once(
    module: Any,
    references: Vector,
    stand_in: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    replace_name(monkeypatch, "load_module", lambda *_: module)
    clap = load(config(stand_in, tmp_path / "cache"))
    assert clap.engine == "torch/cpu"
    assert caplog.text.count("openvino is not installed (not every platform has its wheel)") == 1
    assert_same_vectors(clap.get_audio_embedding_from_data(list(SOUNDS.values())), references)
    parts = [clap.get_audio_embedding_from_data(part) for part in (SHORT_LIST[:1], SHORT_LIST[1:], [])]
    assert_same_vectors(np.concatenate(parts), references[-4:])


def test_vectors_in_bf16_on_torch_are_stock_laion_claps_but_for_a_little(module: Any, references: Vector) -> None:
    some = slice(None, None, 2)  # a second a window where the CPU imitates bf16
    engine = TorchCpuClap(module, "bf16", no_texts())
    check_engine(engine, stock_reference(module))
    vectors = engine.get_audio_embedding_from_data([*SOUNDS.values()][some])
    assert cosines(vectors, references[some]).min() >= 0.999_9
    assert np.abs(vectors - references[some]).max() > 1e-5  # else this was f32


def test_each_thread_of_torch_proves_itself_and_a_wrong_part_is_named(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchCpuClap(module, "f32", no_texts())
    check_engine(engine, stock_reference(module))
    assert len(engine.embed([])[1]) == usable_cores()
    assert engine.first_wrong_part(0) is None
    right = type(engine.tower).transformer

    def wrong_in_f32(tower: Any, image: Any) -> Any:
        latent = right(tower, image)
        return latent if latent.element_size() == 8 else latent.flip(-1)

    monkeypatch.setattr(type(engine.tower), "transformer", wrong_in_f32)
    with pytest.raises(UnprovedVectors, match=r"torch/cpu .*that differs is the transformer\. Install what"):
        engine.get_audio_embedding_from_data(SHORT_LIST)


def test_vectors_in_bf16_by_openvino_are_stock_laion_claps_but_for_a_little(
    stand_in: Path, model_cache: Path, references: Vector
) -> None:
    core = import_openvino().Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no BF16 arithmetic")
    vectors = load(config(stand_in, model_cache, precision="bf16")).get_audio_embedding_from_data(list(SOUNDS.values()))
    assert cosines(vectors, references).min() >= 0.999_9


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_gpus_vectors_are_stock_laion_claps(
    stand_in: Path, model_cache: Path, references: Vector, precision: Any
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device here")
    wanted = dataclasses.replace(config(stand_in, model_cache, precision=precision), device="cuda")
    clap: Any = load(wanted)
    assert clap.engine == "torch/cuda"
    assert_same_vectors(clap.get_audio_embedding_from_data(list(SOUNDS.values())), references, precision)
    clap.batch_size = 3
    parts = [clap.get_audio_embedding_from_data(part) for part in (SHORT_LIST[:1], SHORT_LIST[1:])]
    assert_same_vectors(np.concatenate(parts), references[-4:], precision)


TEXTS = ["a kick drum", "Baßtrommel – 低音の太鼓 🥁", "", "a kick drum", "snare " * 99]


def test_vectors_of_texts_are_stock_laion_claps(clap: ClapModel, stock: Any) -> None:
    import torch

    with torch.no_grad():
        expected = stock.get_text_embedding(TEXTS)
    assert_a_swap_would_show(expected[[0, 1, 2, 4]])  # the fourth is the first again
    assert_same_vectors(clap.get_text_embedding(TEXTS), expected)
    assert_same_vectors(clap.get_text_embedding(TEXTS[1:2]), expected[1:2])


# -- texts, by the compiled tower ------------------------------------------------------------------------------------


def texts_of_every_kind() -> list[str]:
    """Two hundred texts: what people ask for, and what nobody should."""
    sounds = "kick snare hat clap tom bass pad lead pluck strings vocal riser impact vinyl rain".split()
    manners = "a dark|Punchy|the LOUDEST|warm, wide and slow|128 BPM|lo-fi".split("|")
    sentences = [f"{manner} {sound}" for manner in manners for sound in sounds]
    odd = [
        *(
            "",
            " ",
            "\n",
            "\t\t",
            "\0",
            "a\0b",
            "\x1b[2J",
            "\r\n" * 40,
            "\u202eevil",
            "\ufeffkick",
            "\u200b",
            "\x7f\x80",
        ),
        *("<s>", "</s>", "<pad>", "<mask> kick", "kick<pad><pad>", "<unk>", "<S>", "</s></s> snare", "kick <mask>"),
        *("🥁", "👩‍🎤🎸", "🇩🇪", "é", "e\u0301", "ﬁ", "Ǆ", "ß", "İ", "\ufffd", "\U0010ffff", "\ue000", "𝄞", "١٢٨"),
        *("低音の太鼓", "тёмный бас", "طبل", "תוף", "กลอง", "ढोल", "Trống", "북", "Ǳ" * 80, "低" * 300, "🥁" * 100),
        *("kick's", "don't", "'ll", "1234567890" * 20, *("a" * n for n in (74, 75, 76, 77, 10_000)), "a " * 76),
        *(
            '"; DROP TABLE stems; --',
            "../../etc/passwd",
            "%s%n{0}",
            "<script>alert(1)</script>",
            "C:\\a.wav",
            "--top 0",
        ),
        *(
            " kick",
            "kick ",
            "kick  snare",
            "kick\u00a0snare",
            "\u3000kick",
            "KICK",
            "kick",
            "kick.",
            "kick!?",
            "snare " * 99,
        ),
    ]
    dice = np.random.default_rng(7)
    codes = [*range(0xD800), *range(0xE000, 0x11000)]
    noise = ["".join(map(chr, dice.choice(codes, length))) for length in range(1, 201 - len(sentences) - len(odd))]
    return [*sentences, *odd, *noise]


@dataclass(frozen=True)
class Searched:
    """A search for a text from the shell, as if the stand-in were published."""

    text: str
    cache: ModelCache
    result: subprocess.CompletedProcess[str]
    watch: Watch

    def weights(self, stand_in: Path) -> Weights:
        return identify_weights(str(stand_in / "stand-in.pt"), self.cache)

    def vector(self, stand_in: Path) -> Vector:
        """The vector, (1, 512), that the search has kept."""
        file = self.cache.folder_of(self.weights(stand_in)) / "texts.npz"
        return TextVectors(file, self.cache, must_not_be_called).of([self.text])


def must_not_be_called(*_: object) -> Any:
    raise AssertionError("the model was loaded")


SEARCH_OF_PUBLISHED = PUBLISHED.replace("prepare_dataset_sql", "search_dataset_sql").replace(
    "product.leave", "sys.exit"
)


def search(text: str, finished: Finished, cache: ModelCache, stand_in: Path, folder: Path, **hub: str) -> Searched:
    watch = Watch(folder / "watch.txt")
    database = shutil.copy(finished.place.database, folder)
    flags = ["--checkpoint", str(stand_in / "stand-in.pt"), "--database", str(database)]
    flags += ["--model-cache", str(cache.folder)]
    environment = {**watch.environment, **hub}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), environment["PYTHONPATH"]])
    result = run_python("-c", SEARCH_OF_PUBLISHED, text, *flags, stand_in=stand_in, **environment)
    return Searched(text, cache, result, watch)


@pytest.fixture(scope="module")
def first_search(finished: Finished, stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """The first search for a text, which makes the text tower."""
    folder = tmp_path_factory.mktemp("first_search")
    return search("a new text", finished, ModelCache(folder / "cache"), stand_in, folder)


@pytest.fixture(scope="module")
def text_tower(first_search: Searched, stand_in: Path) -> TextTower:
    """The text tower that the first search has kept."""
    tower = load_text_tower(first_search.weights(stand_in), first_search.cache, must_not_be_called)
    assert isinstance(tower, TextTower)
    return tower


def test_the_first_new_text_makes_the_text_tower_and_is_found(
    first_search: Searched, stand_in: Path, stock: Any
) -> None:
    assert first_search.result.returncode == 0, first_search.result.stderr
    text = "compiling CLAP's text tower for this CPU, once for each checkpoint (half a minute)\n"
    assert first_search.result.stderr == text
    assert len(first_search.result.stdout.splitlines()) == 21
    assert "torch" in first_search.watch.noted("import")
    assert_same_vectors(first_search.vector(stand_in), stock.get_text_embedding(["a new text"]))


def test_another_new_text_is_found_without_torch_and_without_the_hubs_cache(
    first_search: Searched, finished: Finished, stand_in: Path, stock: Any, tmp_path: Path
) -> None:
    empty = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    done = search("Baßtrommel 🥁", finished, first_search.cache, stand_in, tmp_path, **empty)
    assert (done.result.returncode, done.result.stderr) == (0, "")
    assert len(done.result.stdout.splitlines()) == 21
    assert done.watch.noted("import") == []
    assert done.watch.noted("network") == []
    assert_same_vectors(done.vector(stand_in), stock.get_text_embedding(["Baßtrommel 🥁"]))


def test_the_text_towers_tokens_and_vectors_are_stock_laion_claps(text_tower: TextTower, stock: Any) -> None:
    import torch

    texts = texts_of_every_kind()
    assert len(texts) == len(set(texts)) == 200
    tokens, encoded = stock.tokenizer(texts), [text_tower.tokenizer.encode(text) for text in texts]
    assert [encoding.ids for encoding in encoded] == tokens["input_ids"].tolist()
    assert [encoding.attention_mask for encoding in encoded] == tokens["attention_mask"].tolist()
    with torch.no_grad():
        expected = stock.get_text_embedding(texts)
    assert_a_swap_would_show(expected[:100])
    assert_same_vectors(text_tower.get_text_embedding(texts), expected)


def test_where_openvino_is_missing_torch_embeds_a_new_text(
    module: Any, stock: Any, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    replace_name(monkeypatch, "load_module", lambda *_: module)
    wanted = config(stand_in, tmp_path / "cache")
    weights = identify_weights(wanted.checkpoint, ModelCache(wanted.model_cache))
    vectors = QueryVectors(weights.embedding_model(8, "f32"), None, wanted)
    assert_same_vectors([vectors.of_text("a kick")], stock.get_text_embedding(["a kick"]))
    assert list((tmp_path / "cache").glob("*/text-*")) == []


# -- a checkpoint file is not trusted --------------------------------------------------------------------------------


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def torch_file(content: object, **options: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def old_torch_file(content: object) -> bytes:
    return torch_file(content, _use_new_zipfile_serialization=False)


def zeros(*shape: int) -> Any:
    import torch

    return torch.zeros(shape)


def load_refused(file: Path, **settings: Any) -> str:
    """Load a checkpoint file, expecting `WeightsMissing`; return its text."""
    with pytest.raises(WeightsMissing) as caught:
        load(Config(checkpoint=str(file), model_cache=file.parent / "cache", device="cpu", **settings))
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    return text


HOSTILE_FORMS: dict[str, Callable[[object], bytes]] = {
    "torch": torch_file,
    "torch's old format": old_torch_file,
    "pickle": functools.partial(pickle.dumps, protocol=2),
}


def hostile_file(folder: Path, form: str) -> Path:
    """Write a checkpoint that makes `folder`/canary when its code is run."""
    content = {"epoch": 0, "name": "hostile", "state_dict": {"module.a": Hostile(folder / "canary")}}
    (folder / "hostile.pt").write_bytes(HOSTILE_FORMS[form](content))
    return folder / "hostile.pt"


@pytest.mark.parametrize("form", HOSTILE_FORMS)
def test_a_checkpoint_that_holds_code_is_refused_and_its_code_not_run(
    tmp_path: Path, hub_cache: None, form: str
) -> None:
    import torch

    file, canary = hostile_file(tmp_path, form), tmp_path / "canary"
    assert "no CLAP checkpoint that can be loaded safely" in load_refused(file)
    assert not canary.exists()
    with contextlib.suppress(Exception):
        torch.load(file, weights_only=False)
    assert canary.exists(), "the file is harmless: this test shows nothing"


def test_the_refusal_says_what_was_found_and_does_not_advise_to_run_the_code(tmp_path: Path, hub_cache: None) -> None:
    text = load_refused(hostile_file(tmp_path, "torch"))
    assert "mkdir" in text
    assert "will likely succeed" not in text  # torch's advice: load it with weights_only=False


def test_a_run_with_a_hostile_checkpoint_ends_with_3_and_touches_no_file(
    workplace: Workplace,
    library: Path,
    hub_cache: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(library / "stems" / "broken", workplace.input, dirs_exist_ok=True)
    shutil.copy(library / "stems" / "Drums/Kicks/KICK_TIGHT.WAV", workplace.input)
    before = {path: path.read_bytes() for path in workplace.input.iterdir()}
    hostile_file(workplace.folder, "torch")
    monkeypatch.chdir(workplace.folder)
    assert product.main([*workplace.flags(), "--checkpoint", "hostile.pt"]) == 3
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert "error: hostile.pt: no CLAP checkpoint that can be loaded safely" in stderr
    assert not (workplace.folder / "canary").exists()
    assert {path: path.read_bytes() for path in workplace.input.iterdir()} == before
    assert workplace.rows() == []
    assert workplace.quarantined() == []


def test_the_refusal_of_code_names_the_flag_that_allows_it(tmp_path: Path, hub_cache: None) -> None:
    assert "if you trust its author, use --trust-checkpoint" in load_refused(hostile_file(tmp_path, "torch"))


def test_the_code_of_a_checkpoint_that_is_trusted_is_run_and_said_so(
    tmp_path: Path, hub_cache: None, caplog: pytest.LogCaptureFixture
) -> None:
    text = load_refused(hostile_file(tmp_path, "torch"), trust_checkpoint=True)
    assert (tmp_path / "canary").exists()
    assert "contains no audio tower" in text  # it was loaded, and looked into
    assert "loaded with any code that it contains, because of --trust-checkpoint" in caplog.text


def test_a_checkpoint_without_code_is_loaded_safely_although_it_is_trusted(
    tmp_path: Path, hub_cache: None, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine.pt").write_bytes(torch_file({"state_dict": {"a": zeros(9)}}))
    load_refused(tmp_path / "mine.pt", trust_checkpoint=True)
    assert "any code that it contains" not in caplog.text


def with_a_flipped_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


# How a file that is no CLAP checkpoint is made, and a word that its refusal must have.
NO_CHECKPOINTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "truncated: ends after 0 bytes"),
    "text": (lambda: b"this is no checkpoint\n", "holds no checkpoint"),
    "git-lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "holds no checkpoint"),
    "truncated": (lambda: torch_file({"state_dict": {"a": zeros(999)}})[:-99], "truncated: ends after"),
    "truncated, in torch's old format": (lambda: old_torch_file({"state_dict": {"a": zeros(9)}})[:-9], "loaded safely"),
    "truncated to its head, in torch's old format": (lambda: old_torch_file({"state_dict": {}})[:52], "loaded safely"),
    "a flipped bit": (
        lambda: with_a_flipped_bit(torch_file({"state_dict": {"a": zeros(9_999)}})),
        "damaged: the checksum of archive/data/0 is wrong",
    ),
    "a damaged string": (lambda: b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "loaded safely"),
    "a tensor": (lambda: torch_file(zeros(9)), "loaded safely"),
    "a list": (lambda: torch_file([1, 2]), "loaded safely"),
    "without state_dict": (lambda: torch_file({"a": zeros(9)}), "state_dict"),
    "a state_dict of text": (lambda: torch_file({"state_dict": "text"}), "loaded safely"),
    "numbers for tensors": (lambda: torch_file({"state_dict": {PATCH_EMBEDDING: 5}}), "HTSAT-tiny"),
    "without audio tower": (lambda: torch_file({"state_dict": {"a": zeros(9)}}), "HTSAT-tiny, HTSAT-base"),
    "another architecture": (
        lambda: torch_file({"state_dict": {PATCH_EMBEDDING: zeros(64, 1, 4, 4)}}),
        "HTSAT-tiny, HTSAT-base",
    ),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # torch, of a tensor asked for its "state_dict"
def test_a_file_that_is_no_clap_checkpoint_is_refused_and_the_reason_told(
    tmp_path: Path, hub_cache: None, kind: str
) -> None:
    make, word = NO_CHECKPOINTS[kind]
    (tmp_path / "mine.pt").write_bytes(make())
    text = load_refused(tmp_path / "mine.pt")
    assert word in text
    assert "--trust-checkpoint" not in text  # that would run a stranger's code, and mend nothing


def test_a_fusion_checkpoint_is_told_as_a_wrong_pairing(tmp_path: Path, hub_cache: None) -> None:
    state = {PATCH_EMBEDDING: zeros(96, 1, 4, 4), "audio_branch.patch_embed.fusion_model.a": zeros(9)}
    (tmp_path / "fusion.pt").write_bytes(torch_file({"state_dict": state}))
    assert "wrong pairing: a checkpoint for enable_fusion=True" in load_refused(tmp_path / "fusion.pt")


def test_a_checkpoint_that_does_not_fit_is_refused_in_a_few_lines(tmp_path: Path, hub_cache: None) -> None:
    state = {PATCH_EMBEDDING: zeros(96, 1, 4, 4), "audio_branch.patch_embed.a": zeros(9)}
    (tmp_path / "other.pt").write_bytes(torch_file({"state_dict": state}))
    text = load_refused(tmp_path / "other.pt")
    assert "does not fit HTSAT-tiny" in text
    assert len(text) < 1000  # torch lists every missing name: 12 kB


def test_a_refused_window_leaves_the_engine_usable(clap: ClapModel) -> None:
    good = np.ones(4_800, np.float32) / 2
    expected = clap.get_audio_embedding_from_data([good])
    with pytest.raises(ValueError, match="a window of 480001 samples: 1 to 480000 are allowed"):
        clap.get_audio_embedding_from_data([good, np.zeros(480_001, np.float32)])
    assert np.array_equal(clap.get_audio_embedding_from_data([good]), expected)
