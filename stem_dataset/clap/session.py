"""Choose, load and call a run's CLAP engine; return only proved vectors."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Self

import numpy as np

from stem_dataset.audio.windowing import window_rule
from stem_dataset.clap.checkpoints import (
    ModelCache,
    Weights,
    find_checkpoint,
    identify_weights,
    warn_of_odd_weights,
)
from stem_dataset.clap.engine import ClapModel, Engine, ModelLoader, TextVectors, UnprovedVectors, check_engine
from stem_dataset.clap.labels import NO_PALETTE, Described, Palette, described_by_clap, embed_palette
from stem_dataset.clap.openvino_engine import check_bf16, load_openvino
from stem_dataset.clap.torch_engine import (
    TorchCpuClap,
    TorchCudaClap,
    choose_device,
    load_module,
    refuse_imitated_bf16,
    stock_reference,
    warn_of_stand_in,
)
from stem_dataset.clap.vectors import blob_of, cosine_distance, refuse_broken
from stem_dataset.config import Config
from stem_dataset.datatypes import Float32, Provenance, utc_now
from stem_dataset.errors import RunStopped
from stem_dataset.logs import log, printable
from stem_dataset.progress import Progress

# The largest 1 - cosine of two engines' vectors of the reference signal. If both are within `LEAST_COSINE` of stock
# laion_clap, they are within four times that of each other, since the angles add up.
REFERENCE_TOLERANCE = {"f32": 1e-5, "bf16": 4e-4}


def load_clap(weights: Weights, config: Config) -> ClapModel:
    """Return the engine for `config.device` and `config.precision`; missing weights are downloaded.

    Raises `UsageError` for a device or precision that this machine lacks, `WeightsMissing` if there is no CLAP
    checkpoint to load, and `RunStopped` if the engine's vectors are not laion_clap's even after it was built again.
    """
    return ProvedClap(lambda: build_engine(weights, config))


def build_engine(weights: Weights, config: Config) -> Engine:
    """Return a new engine whose streams have all been proved.

    Each has given laion_clap's vector of the reference signal. Raises the same as `load_clap`, except that it raises
    `UnprovedVectors` if a stream gave another vector.
    """
    cache = ModelCache(config.model_cache)
    device = refuse_unfit_device(config)
    if device == "cpu" and has_openvino():
        return load_openvino(weights, config, cache)
    if device == "cpu":
        log.warning("openvino is not installed (not every platform has its wheel): CLAP runs on torch, which is slower")
    module = load_module(weights, config, device)
    warn_of_stand_in(module.is_stand_in, weights)
    texts = TextVectors(cache.folder_of(weights) / "texts.npz", cache, lambda: module)
    engine = (TorchCudaClap if device == "cuda" else TorchCpuClap)(module, config.precision, texts)
    check_engine(engine, stock_reference(module))
    return engine


def refuse_mistakes(config: Config) -> None:
    """Raise `UsageError` if the config names a missing checkpoint or device, or a precision that the device lacks.

    This makes no file, and reads none but the checkpoint's name.
    """
    find_checkpoint(config.checkpoint)
    refuse_unfit_device(config)


def refuse_unfit_device(config: Config) -> Literal["cpu", "cuda"]:
    """Return the device for this run; raises `UsageError` if the machine lacks it, or its arithmetic.

    With `device` auto and `precision` f32, this imports neither torch nor openvino, unless a GPU's driver is installed.
    """
    device = choose_device(config.device)
    if config.precision == "bf16" and device == "cpu" and has_openvino():
        check_bf16(config.precision)
    elif config.precision == "bf16":
        refuse_imitated_bf16(device)
    return device


def has_openvino() -> bool:
    """Return whether openvino is installed."""
    return importlib.util.find_spec("openvino") is not None


class ProvedClap:
    """A `ClapModel` that returns only proved vectors.

    If a stream fails its proof, the engine is built again, once, and the whole call is repeated: OpenVINO 2026.4.1 was
    seen to compile a stream that computes another function. A second failure is `RunStopped`.
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
        log.warning("%s. The engine is built again, and the batch is computed again", printable(failure.finding))
        try:
            self.current = self.build()
        except UnprovedVectors as again:
            raise self._stopped(again, harm) from None

    def _stopped(self, failure: UnprovedVectors, harm: str) -> RunStopped:
        return RunStopped(f"{failure.finding}, also after the engine was built again. {harm}. {failure.way_out}")


class ClapSession:
    """CLAP for one run: chosen and loaded once, and called in one thread.

    A `with` block chooses the checkpoint at its beginning, and leaves the thread behind at its end.
    """

    def __init__(self, config: Config, load_model: ModelLoader, progress: Progress) -> None:
        self.config = config
        self.load_model = load_model
        self.progress = progress
        # One thread makes all calls, since OpenMP starts a team of threads per caller.
        self.thread = ThreadPoolExecutor(1)
        self.weights: Weights
        self.embedding_model = ""
        # `load` sets these two.
        self.model: ClapModel | None = None
        self.provenance: Provenance | None = None
        self.tags = self.categories = NO_PALETTE

    def __enter__(self) -> Self:
        """Find the checkpoint, without loading it.

        Raises what `identify_weights` does.
        """
        cache = ModelCache(self.config.model_cache)
        self.weights = self.progress.wait_for(self.thread.submit(identify_weights, self.config.checkpoint, cache))
        self.embedding_model = self.weights.embedding_model(self.config.max_windows, self.config.precision)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the thread behind, since a running call cannot be stopped."""
        self.thread.shutdown(wait=False, cancel_futures=True)

    def load(self) -> None:
        """Load CLAP and the palettes, and set the provenance of its vectors."""
        self.progress.say("loading CLAP")
        warn_of_odd_weights(self.weights)
        model, self.tags, self.categories = self.progress.wait_for(self.thread.submit(self._loaded))
        self.model = model
        self.progress.note_engine(model.engine)
        self.provenance = Provenance(
            embedding_model=self.embedding_model,
            engine=model.engine,
            versions=json.dumps(dict(model.versions), sort_keys=True),
            checkpoint=self.weights.name,
            checkpoint_sha256=self.weights.sha256,
            architecture=model.architecture,
            precision=self.config.precision,
            window_rule=window_rule(self.config.max_windows),
            reference_vector=blob_of(refuse_broken(model.reference)),
            first_used_at=utc_now(),
        )

    def _loaded(self) -> tuple[ClapModel, Palette, Palette]:
        try:
            model = self.load_model(self.weights, self.config)
            if not self.weights.is_published:
                log.debug("no tags or categories by CLAP: %s is no published checkpoint", printable(self.weights.name))
                return model, NO_PALETTE, NO_PALETTE
            tags, categories = self.config.tags, self.config.category_prompts
            return model, embed_palette(model, tags), embed_palette(model, categories)
        except (RuntimeError, ImportError, AttributeError, MemoryError) as error:
            # torch, openvino and laion_clap raise these errors.
            log.debug("traceback", exc_info=True, extra={"file_only": True})
            raise RunStopped(
                f"CLAP cannot be loaded: {type(error).__name__}: {printable(error)}. No file was touched. Install what "
                "requirements.txt pins, free memory, or try another --device"
            ) from error

    def differs_from(self, former: Provenance | None) -> bool:
        """Return whether this run's engine makes other vectors than `former`.

        Both are provenances of the same model.
        """
        assert self.provenance is not None
        if former is None or former.reference_vector is None or self.provenance.reference_vector is None:
            return False
        distance = cosine_distance(former.reference_vector, self.provenance.reference_vector)
        # `not <=` also catches NaN.
        return not distance <= REFERENCE_TOLERANCE[self.config.precision]

    def conflict_text(self, former: Provenance) -> str:
        """Return the message for a database whose vectors `former` made."""
        tolerance = REFERENCE_TOLERANCE[self.config.precision]
        return (
            f"the vectors of {self.embedding_model} in {printable(self.config.database)} were made by {former}, "
            f"and this run's engine, {self.provenance}, makes others: for the reference signal they differ by more "
            f"than {tolerance:g} in cosine. No file was touched: use the former versions (on the former "
            "machine, if they are the same), or replace all those vectors: run --re-embed"
        )

    def described(self, stem: Described, vector: bytes) -> Described:
        """Return `stem` with the tags and the category nearest to its vector."""
        return described_by_clap(stem, np.frombuffer(vector, "<f4"), self.tags, self.categories)
