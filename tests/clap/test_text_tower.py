"""The compiled text tower, as it is kept, with a small model in CLAP's place; test_session.py has CLAP's own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from engines import cut
from patching import replace_name
from stem_dataset.clap.checkpoints import ModelCache, Weights
from stem_dataset.clap.openvino_engine import TOWER_CARD, import_openvino
from stem_dataset.clap.text_tower import REFERENCE_TEXTS, TEXT_RECIPE, TextTower, load_text_tower, text_tower_key
from vectors import assert_same_vectors

WEIGHTS = Weights("mine", "0123456789abcdef" * 4, None, "HTSAT-tiny")
TOKENS = 77
TEXTS = ["kick", "", "a longer text about a snare", *REFERENCE_TEXTS]
Made = tuple[Any, dict[str, Any]]


def small_tokenizer() -> str:
    """Return the JSON of a tokenizer with a token per byte, which pads and cuts off as laion_clap's does."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols, 1)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS, pad_id=0)
    return tokenizer.to_str()


def small_model(seed: int = 1) -> Any:
    """Return a model that adds a vector for each token that is not padding, and one for the whole."""
    ops = import_openvino().opset13
    numbers = np.random.default_rng(seed).standard_normal((258, 512)).astype(np.float32)
    ids, mask = (ops.parameter([1, TOKENS], np.int64, name=name) for name in ("ids", "mask"))
    tokens = ops.gather(ops.constant(numbers[1:]), ids, ops.constant(0))
    weights = ops.unsqueeze(ops.convert(mask, "f32"), ops.constant(2))
    total = ops.add(ops.reduce_sum(ops.multiply(tokens, weights), ops.constant([1])), ops.constant(numbers[:1]))
    return import_openvino().Model([ops.normalize_l2(total, ops.constant([1]), 1e-12, "add")], [ids, mask])


def made(seed: int = 1) -> Made:
    """Return a model with its card, as `convert_text_tower` does."""
    tokenizer = small_tokenizer()
    vectors = TextTower(small_model(seed), tokenizer).get_text_embedding(REFERENCE_TEXTS)
    card = {"key": text_tower_key(WEIGHTS), "tokenizer": tokenizer, "reference_vectors": vectors.tolist()}
    return small_model(seed), card


class Machine:
    """A model cache, and a CLAP that counts how often it is loaded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = ModelCache(folder)
        self.module = object()
        self.loads = 0
        self.convert: Callable[[], Made] = made
        replace_name(monkeypatch, "convert_text_tower", lambda *_: self.convert())

    def load(self) -> Any:
        return load_text_tower(WEIGHTS, self.cache, self._module)

    def _module(self) -> object:
        self.loads += 1
        return self.module

    @property
    def tower(self) -> Path:
        (folder,) = self.cache.folder_of(WEIGHTS).glob("text-*")
        return folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose cache is empty."""
    return Machine(tmp_path / "cache", monkeypatch)


def change_card(folder: Path, **changes: Any) -> None:
    card_file = folder / TOWER_CARD
    card = {**json.loads(card_file.read_text(encoding="utf-8")), **changes}
    kept = {name: value for name, value in card.items() if value is not None}
    card_file.write_text(json.dumps(kept), encoding="utf-8")


def change_key(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_card(folder, key={**text_tower_key(WEIGHTS), **changes})


def change_numbers(folder: Path) -> None:
    (folder / "text.bin").write_bytes(bytes(reversed((folder / "text.bin").read_bytes())))


def without_padding() -> str:
    tokenizer = Tokenizer.from_str(small_tokenizer())
    tokenizer.no_padding()
    return tokenizer.to_str()


def with_other_ids() -> str:
    return small_tokenizer().replace('"a":', '"?":').replace('"b":', '"a":').replace('"?":', '"b":')


SPOIL: dict[str, Callable[[Path], object]] = {
    "no folder": shutil.rmtree,
    "no network": lambda folder: (folder / "text.xml").unlink(),
    "no numbers": lambda folder: (folder / "text.bin").unlink(),
    "no card": lambda folder: (folder / TOWER_CARD).unlink(),
    "network cut off": lambda folder: os.truncate(folder / "text.xml", 200),
    "numbers cut off": lambda folder: os.truncate(folder / "text.bin", 1_000),
    "no numbers in the file": lambda folder: os.truncate(folder / "text.bin", 0),
    "other numbers": change_numbers,
    "card cut off": lambda folder: cut(folder / TOWER_CARD),
    "an empty card": lambda folder: (folder / TOWER_CARD).write_text("{}"),
    "a card that is a list": lambda folder: (folder / TOWER_CARD).write_text("[]"),
    "no tokenizer": lambda folder: change_card(folder, tokenizer=None),
    "an empty tokenizer": lambda folder: change_card(folder, tokenizer=""),
    "half a tokenizer": lambda folder: change_card(folder, tokenizer=small_tokenizer()[:500]),
    "a number as the tokenizer": lambda folder: change_card(folder, tokenizer=7),
    "a tokenizer that does not pad": lambda folder: change_card(folder, tokenizer=without_padding()),
    "a tokenizer with other ids": lambda folder: change_card(folder, tokenizer=with_other_ids()),
    "no reference": lambda folder: change_card(folder, reference_vectors=[]),
    "a reference of NaN": lambda folder: change_card(folder, reference_vectors=[[float("nan")] * 512]),
    "a short reference": lambda folder: change_card(folder, reference_vectors=[[1.0]]),
    "another checkpoint": change_key(checkpoint_sha256="f" * 64),
    "another openvino": change_key(openvino="2025.0.0"),
    "another laion_clap": change_key(**{"laion-clap": "1.1.6"}),
    "another transformers": change_key(transformers="4.0.0"),
    "another tokenizers": change_key(tokenizers="0.1.0"),
    "another recipe": change_key(recipe=TEXT_RECIPE + 1),
}


def test_a_tower_is_made_once_and_then_found_and_gives_the_same_vectors(machine: Machine) -> None:
    new = machine.load().get_text_embedding(TEXTS)
    kept = machine.load().get_text_embedding(TEXTS)
    assert machine.loads == 1
    assert_same_vectors(kept, new)
    assert machine.load().get_text_embedding([]).shape == (0, 512)


@pytest.mark.parametrize("way", SPOIL)
def test_a_tower_that_is_missing_damaged_or_of_something_else_is_made_again(
    machine: Machine, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    expected = machine.load().get_text_embedding(TEXTS)
    SPOIL[way](machine.tower)
    caplog.clear()
    assert_same_vectors(machine.load().get_text_embedding(TEXTS), expected)
    assert machine.loads == 2
    was_there = way not in ("no folder", "no card")
    assert ("the compiled text tower cannot be used, so it is built again" in caplog.text) == was_there
    machine.load()
    assert machine.loads == 2


def test_a_kept_tower_with_other_vectors_than_laion_claps_is_named_with_its_cosine(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.load()
    _, card = made()
    change_card(machine.tower, reference_vectors=[[-number for number in v] for v in card["reference_vectors"]])
    machine.load()
    assert "openvino does not give laion_clap's vector of 'a dark, punchy kick" in caplog.text
    assert "its cosine is -1.0000000, and at least 0.999999 is required" in caplog.text


@pytest.mark.parametrize("number", range(len(REFERENCE_TEXTS)))
def test_a_new_tower_that_is_wrong_for_one_text_is_refused_and_torch_embeds(
    machine: Machine, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    model, card = made()
    card["reference_vectors"][number] = card["reference_vectors"][number][::-1]
    machine.convert = lambda: (model, card)
    assert machine.load() is machine.module
    assert "CLAP's text tower cannot be compiled, so torch embeds texts: openvino does not give" in caplog.text
    assert not machine.cache.folder_of(WEIGHTS).exists()


def test_where_openvino_fails_torch_embeds(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Made:
        raise RuntimeError("no such operation")

    machine.convert = fail
    assert machine.load() is machine.module
    assert "so torch embeds texts: no such operation" in caplog.text


def test_an_error_of_clap_itself_is_not_taken_for_one_of_the_tower(machine: Machine) -> None:
    def fail() -> Any:
        raise RuntimeError("torch is broken")

    with pytest.raises(RuntimeError, match="torch is broken"):
        load_text_tower(WEIGHTS, machine.cache, fail)


def test_a_tower_that_cannot_be_kept_costs_a_warning_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a file").touch()
    machine = Machine(tmp_path / "a file", monkeypatch)
    assert machine.load().get_text_embedding(["kick"]).shape == (1, 512)
    assert "the compiled tower cannot be kept" in caplog.text
