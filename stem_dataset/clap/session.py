"""Load CLAP on the engine that suits this machine, and answer with proved vectors alone."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence

from stem_dataset.clap.checkpoints import ModelCache, Weights
from stem_dataset.clap.engine import ClapModel, Engine, TextVectors, UnprovedVectors, check_engine
from stem_dataset.clap.openvino_engine import load_openvino
from stem_dataset.clap.torch_engine import (
    TorchCpuClap,
    TorchCudaClap,
    choose_device,
    load_module,
    refuse_imitated_bf16,
    stock_reference,
    warn_of_stand_in,
)
from stem_dataset.config import Config
from stem_dataset.datatypes import Float32
from stem_dataset.errors import RunStopped
from stem_dataset.logs import log, printable

# 1 - cosine of two engines' vectors for the reference signal, at most. Two that are each within `LEAST_COSINE` of stock
# laion_clap are within four times that of each other (the angles add up).
REFERENCE_TOLERANCE = {"f32": 1e-5, "bf16": 4e-4}


def load_clap(weights: Weights, config: Config) -> ClapModel:
    """Return the engine for `config.device` and `config.precision`, with the weights downloaded if need be.

    Raises `UsageError` for a device or precision that this machine lacks, `WeightsMissing` where there is no CLAP
    checkpoint to load, `RunStopped` where the engine's vectors are not laion_clap's, also when it is built again.
    """
    return ProvedClap(lambda: build_engine(weights, config))


def build_engine(weights: Weights, config: Config) -> Engine:
    """Return a new engine, each of whose streams has given laion_clap's vector of the reference signal.

    Raises what `load_clap` raises, but `UnprovedVectors` where a stream gave another vector.
    """
    cache = ModelCache(config.model_cache)
    device = choose_device(config.device)
    if device == "cpu" and importlib.util.find_spec("openvino") is not None:
        return load_openvino(weights, config, cache)
    if device == "cpu":
        log.warning("openvino is not installed (not every platform has its wheel): CLAP runs on torch, which is slower")
    if config.precision == "bf16":
        refuse_imitated_bf16(device)
    module = load_module(weights, config, device)
    warn_of_stand_in(module.is_stand_in, weights)
    texts = TextVectors(cache.folder_of(weights) / "texts", cache, lambda: module)
    engine = (TorchCudaClap if device == "cuda" else TorchCpuClap)(module, config.precision, texts)
    check_engine(engine, stock_reference(module))
    return engine


class ProvedClap:
    """A `ClapModel` that answers with proved vectors alone.

    Where a stream fails its proof, the engine is built again, once, and the whole call is computed again: OpenVINO
    2026.4.1 was seen to compile a stream that computes another function. A second failure is `RunStopped`.
    """

    def __init__(self, build: Callable[[], Engine]) -> None:
        self.build = build
        self.was_rebuilt = False
        try:
            self.current = build()
        except UnprovedVectors as failure:
            self._rebuild(failure, "No file was touched")

    engine = property(lambda self: self.current.engine)
    architecture = property(lambda self: self.current.architecture)
    versions = property(lambda self: self.current.versions)
    reference = property(lambda self: self.current.reference)
    texts = property(lambda self: self.current.texts)

    def get_audio_embedding_from_data(self, x: Sequence[Float32]) -> Float32:
        """See `ClapModel`."""
        harm = "Nothing of this batch was written, and what was committed stays"
        try:
            return self.current.get_audio_embedding_from_data(x)
        except UnprovedVectors as failure:
            self._rebuild(failure, harm)
        try:
            return self.current.get_audio_embedding_from_data(x)
        except UnprovedVectors as failure:
            raise self._stopped(failure, harm) from None

    def get_text_embedding(self, x: Sequence[str]) -> Float32:
        """See `ClapModel`."""
        return self.current.get_text_embedding(x)

    def _rebuild(self, failure: UnprovedVectors, harm: str) -> None:
        if self.was_rebuilt:
            raise self._stopped(failure, harm) from None
        self.was_rebuilt = True
        log.warning("%s. The engine is built again, and its batch is computed again", printable(failure.finding))
        try:
            self.current = self.build()
        except UnprovedVectors as again:
            raise self._stopped(again, harm) from None

    def _stopped(self, failure: UnprovedVectors, harm: str) -> RunStopped:
        return RunStopped(f"{failure.finding}, also after the engine was built again. {harm}. {failure.way_out}")
