"""The text side of CLAP, compiled by OpenVINO: from a text to its vector, without torch.

    text ──► 77 tokens and their mask ──► RoBERTa, pooled ──► projection ──► unit vector
            (laion_clap's tokenizer)      (one openvino.Model, f32)

The steps are those of `CLAP_Module.get_text_embedding` in laion_clap 1.1.7. The tower is kept in the model cache beside
the audio tower. It takes 0.5 GB, of which the words take a third.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stem_dataset.clap.checkpoints import ModelCache, Weights, read_json
from stem_dataset.clap.engine import LEAST_COSINE, UnprovedVectors, library_versions, processor_name
from stem_dataset.clap.openvino_engine import TOWER_CARD, TOWER_ERRORS, cpu_options, import_openvino, keep_tower
from stem_dataset.clap.vectors import cosine_distance_of
from stem_dataset.datatypes import EMBEDDING_SIZE, Float32
from stem_dataset.logs import log, printable, prints_to_log
from stem_dataset.resources import inference_threads

# The only part of this tower, by which its two files are named.
TEXT_PARTS = ("text",)
TEXT_LIBRARIES = ("openvino", "laion-clap", "transformers", "tokenizers")
# Increase this when `text_module`, `TextTower` or `REFERENCE_TEXTS` changes.
TEXT_RECIPE = 1
# A new tower is compared with torch on all of them, and a kept one on the first. Between them they have padding, none,
# one word, no word at all, and bytes that are no letters.
REFERENCE_TEXTS = (
    "a dark, punchy kick – Baßtrommel für Techno 低音 🥁",
    "kick",
    "",
    "snare and hi-hat, 128 BPM\n" * 20,
)


class TextTower:
    """The compiled tower and its tokenizer; it has the method of laion_clap's `CLAP_Module` for texts."""

    def __init__(self, model: Any, tokenizer: str) -> None:
        """Compile `model`, an openvino.Model, and read the JSON of a tokenizer; raises one of `TOWER_ERRORS`."""
        self.tokenizer = read_tokenizer(tokenizer)
        options = cpu_options("f32", inference_threads())
        self.request = import_openvino().Core().compile_model(model, "CPU", options).create_infer_request()

    def get_text_embedding(self, x: Sequence[str]) -> Float32:
        """Return (N, 512) float32 of unit length for N texts; only one thread may call it at a time."""
        return np.array([self._vector(text) for text in x], np.float32).reshape(-1, EMBEDDING_SIZE)

    def _vector(self, text: str) -> Float32:
        encoding = self.tokenizer.encode(text)
        self.request.infer({0: np.array([encoding.ids]), 1: np.array([encoding.attention_mask])})
        vector: Float32 = self.request.get_output_tensor().data[0].copy()
        return vector


def read_tokenizer(text: str) -> Any:
    """Return the tokenizers.Tokenizer that `text`, its JSON, describes; raises ValueError if it is damaged."""
    # Deferred, since a search whose vector is kept does without it.
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:
        # The library raises Exception itself.
        raise ValueError(f"its tokenizer is damaged: {error}") from None


def load_text_tower(weights: Weights, cache: ModelCache, load_module: Callable[[], Any]) -> Any:
    """Return what embeds texts: the kept tower, without torch, or a new one.

    `load_module` returns a CLAP_Module. It is called only if the tower is missing or cannot be used. If this machine
    cannot compile a right tower either, that module is returned.
    """
    folder = cache.folder_of(weights) / text_tower_name()
    # Path.exists would raise for a name that is too long.
    if os.path.exists(folder / TOWER_CARD):
        try:
            return read_text_tower(folder, weights)
        except TOWER_ERRORS as error:
            text = "%s: the compiled text tower cannot be used, so it is built again: %s"
            log.warning(text, printable(folder), printable(reason_of(error)))
    log.info("compiling CLAP's text tower for this CPU, once for each checkpoint (half a minute)")
    module = load_module()
    try:
        model, card = convert_text_tower(module, weights)
        tower = proved_tower(model, card, len(REFERENCE_TEXTS))
    except TOWER_ERRORS as error:
        log.warning("CLAP's text tower cannot be compiled, so torch embeds texts: %s", printable(reason_of(error)))
        return module
    keep_tower(folder, [model], card, TEXT_PARTS)
    return tower


def reason_of(error: Exception) -> str:
    """Return what a warning says of one of `TOWER_ERRORS`."""
    return error.finding if isinstance(error, UnprovedVectors) else str(error)


def read_text_tower(folder: Path, weights: Weights) -> TextTower:
    """Return the tower in `folder`, proved.

    Raises one of `TOWER_ERRORS`. The files have no hashes, since 0.5 GB take half a second: damage to a word that is in
    no reference text is not found.
    """
    card = read_json(folder / TOWER_CARD)
    if card.get("key") != text_tower_key(weights) or not card.keys() >= {"tokenizer", "reference_vectors"}:
        raise ValueError("its card is damaged, or names another checkpoint or other versions")
    return proved_tower(import_openvino().Core().read_model(folder / f"{TEXT_PARTS[0]}.xml"), card, 1)


def proved_tower(model: Any, card: dict[str, Any], count: int) -> TextTower:
    """Return the tower, compiled, after it has given laion_clap's vectors of the first `count` of `REFERENCE_TEXTS`.

    Raises `UnprovedVectors` if it gives others.
    """
    tower = TextTower(model, card["tokenizer"])
    texts = REFERENCE_TEXTS[:count]
    stock_vectors = card["reference_vectors"][:count]
    for text, vector, stock in zip(texts, tower.get_text_embedding(texts), stock_vectors, strict=True):
        cosine = 1 - cosine_distance_of(vector, stock)
        # `not >=` also catches NaN.
        if not cosine >= LEAST_COSINE["f32"]:
            raise UnprovedVectors(
                f"openvino does not give laion_clap's vector of {text[:50]!r} on this processor ({processor_name()}): "
                f"its cosine is {cosine:.7f}, and at least {LEAST_COSINE['f32']} is required",
                "Without openvino (`pip uninstall openvino`) CLAP runs on torch, which is slower",
            )
    return tower


def text_tower_name() -> str:
    """Return the name of a text tower's folder, with all that determines the tower beside the checkpoint."""
    versions = library_versions(*TEXT_LIBRARIES)
    return "-".join(["text", *(f"{name}-{version}" for name, version in versions.items()), str(TEXT_RECIPE)])


def text_tower_key(weights: Weights) -> dict[str, Any]:
    """Return everything that determines a text tower."""
    return {"checkpoint_sha256": weights.sha256, "recipe": TEXT_RECIPE, **library_versions(*TEXT_LIBRARIES)}


def text_module(module: Any) -> Any:
    """Return the text side of a `CLAP_Module` as one torch module.

    It turns token ids and their mask, each (N, 77) int64, into unit vectors (N, 512).
    """
    import torch

    class TextModule(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = module.model.text_branch
            self.projection = module.model.text_projection

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            pooled = self.branch(input_ids=ids, attention_mask=mask)["pooler_output"]
            return torch.nn.functional.normalize(self.projection(pooled), dim=-1)

    return TextModule().eval()


def convert_text_tower(module: Any, weights: Weights) -> tuple[Any, dict[str, Any]]:
    """Return the text tower of a `CLAP_Module` as an openvino.Model, f32, and its card.

    The card has laion_clap's own vectors of `REFERENCE_TEXTS`, and its tokenizer, so that a kept tower does not need
    the hub's cache, and no other tokenizer there can change a vector.
    """
    openvino = import_openvino()
    import torch

    with prints_to_log(), warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns about every branch on a shape, but our shapes are fixed.
        warnings.simplefilter("ignore")
        tokens = module.tokenizer([REFERENCE_TEXTS[0]])
        example = (tokens["input_ids"], tokens["attention_mask"])
        # check_trace would compute it three more times; `proved_tower` compares the vectors with laion_clap's.
        traced = torch.jit.trace(text_module(module), example, check_trace=False)  # type: ignore[no-untyped-call]
        shapes = [list(tensor.shape) for tensor in example]
        model = openvino.convert_model(traced, example_input=example, input=shapes)
        vectors = [module.get_text_embedding([text])[0] for text in REFERENCE_TEXTS]
    # By its last call it has the truncation and the padding that laion_clap asks for.
    tokenizer = module.tokenize.backend_tokenizer.to_str()
    reference_vectors = [vector.tolist() for vector in vectors]
    return model, {"key": text_tower_key(weights), "tokenizer": tokenizer, "reference_vectors": reference_vectors}
