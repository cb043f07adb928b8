"""The vectors of what a user asks with: texts, and sounds that are not in the database."""

from __future__ import annotations

import dataclasses
import functools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.audio.windowing import cut_windows, window_rule
from stem_dataset.clap.checkpoints import CHECKPOINTS, Checkpoint, ModelCache, Weights, identify_weights
from stem_dataset.clap.embed import embed_windows, file_vector
from stem_dataset.clap.engine import ClapModel, TextVectors
from stem_dataset.clap.session import REFERENCE_TOLERANCE, has_openvino, load_clap
from stem_dataset.clap.text_tower import load_text_tower
from stem_dataset.clap.torch_engine import load_module
from stem_dataset.clap.vectors import BAD_VECTOR_TEXT, cosine_distance_of, well_formed
from stem_dataset.config import Config
from stem_dataset.datatypes import Float32, Int16, T
from stem_dataset.errors import BrokenFile, RunStopped, UsageError, text_of_error
from stem_dataset.files import open_regular
from stem_dataset.logs import log, printable

# '<checkpoint>@<sha256, 12 digits>/<precision>/<window rule>'; see `Weights.embedding_model`.
MODEL_NAME = re.compile(r"(?P<name>.*)@(?P<digits>[0-9a-f]{12})/(?P<precision>f32|bf16)/10s-max(?P<windows>\d+)", re.S)


class QueryVectors:
    """Embeds texts and foreign sounds with the model of a database's vectors."""

    def __init__(self, embedding_model: str, reference: Float32 | None, config: Config) -> None:
        """`reference` is the database's vector, (512,), of the reference signal, if it is known."""
        self.embedding_model = embedding_model
        self.reference = reference
        self.config = config
        self.cache = ModelCache(config.model_cache)
        self.parts = MODEL_NAME.fullmatch(embedding_model)

    @functools.cached_property
    def published(self) -> Checkpoint | None:
        """The published checkpoint that made the vectors; None if it was another."""
        digits = self.parts["digits"] if self.parts else "none"
        return next((known for known in CHECKPOINTS.values() if known.sha256.startswith(digits)), None)

    @property
    def understands_texts(self) -> bool:
        """Whether the checkpoint has learnt to match texts with sounds, as in `labels.py`."""
        return self.published is not None

    def of_text(self, text: str) -> Float32:
        """Return the vector, (512,), of a text. Asked only if `understands_texts`."""
        vector: Float32 = self.texts.of([text])[0]
        if not well_formed(vector):
            raise RunStopped("CLAP is broken: its vector of the text is not finite or not of unit length")
        return vector

    @functools.cached_property
    def texts(self) -> TextVectors:
        """The vectors of texts. They are kept in the model cache, so that only a new text needs a model."""
        weights = self.weights
        file = self.cache.folder_of(weights) / "texts.npz"
        return TextVectors(file, self.cache, lambda: self._loading(lambda: self._text_model(weights)))

    def of_file(self, path: Path) -> Float32:
        """Return the vector, (512,), of an audio file, computed as the preparer does it.

        Raises `UsageError` if the file cannot be decoded, or if its vector would not compare with the database's.
        """
        model, max_windows = self.model, self.max_windows
        windows = decoded_windows(path, self.config.max_duration_s, max_windows)
        vector = file_vector(embed_windows(model.get_audio_embedding_from_data, windows))
        if not well_formed(vector):
            raise UsageError(f"{printable(path)}: {BAD_VECTOR_TEXT}")
        return vector

    @property
    def max_windows(self) -> int:
        """The number in the model's window rule."""
        if self.parts is None or not self.embedding_model.endswith(window_rule(int(self.parts["windows"]))):
            text = "this program does not know how those vectors were made, so no other sound can be compared with them"
            raise UsageError(f"{self.embedding_model}: {text}")
        return int(self.parts["windows"])

    @functools.cached_property
    def weights(self) -> Weights:
        """The checkpoint that made the database's vectors.

        A published one is known by its hash. Another must be given as --checkpoint.
        """
        known, is_file = self.published, Path(self.config.checkpoint).expanduser().is_file()
        if is_file or known is None:
            weights = identify_weights(self.config.checkpoint, self.cache)
            if self.parts is not None and weights.sha256.startswith(self.parts["digits"]):
                return weights
        if known is None:
            raise UsageError(
                f"--checkpoint {printable(self.config.checkpoint)}: {printable(self.config.database)} has vectors of "
                f"{printable(self.embedding_model)}: give the file of that checkpoint"
            )
        return Weights(known.name, known.sha256, None, known.architecture)

    @functools.cached_property
    def model(self) -> ClapModel:
        """The engine, loaded once, whose vectors compare with the database's."""
        is_bf16 = self.parts is not None and self.parts["precision"] == "bf16"
        precision: Literal["f32", "bf16"] = "bf16" if is_bf16 else "f32"
        config = dataclasses.replace(self.config, precision=precision, max_windows=self.max_windows)
        weights = self.weights
        log.info("loading CLAP")
        model = self._loading(lambda: load_clap(weights, config))
        if self.reference is not None:
            distance = cosine_distance_of(self.reference, model.reference)
            # `not <=` also catches NaN.
            if not distance <= REFERENCE_TOLERANCE[config.precision]:
                raise RunStopped(
                    f"this machine's engine, {model.engine}, makes other vectors than {printable(config.database)} "
                    f"has: for the reference signal they differ by {distance:.1e} in cosine. Try another --device"
                )
        return model

    def _text_model(self, weights: Weights) -> Any:
        """Return the compiled text tower, or torch's where openvino has no wheel."""
        if has_openvino():
            return load_text_tower(weights, self.cache, lambda: load_module(weights, self.config, "cpu"))
        log.info("loading CLAP to embed a new text; the vector is kept")
        return load_module(weights, self.config, "cpu")

    def _loading(self, load: Callable[[], T]) -> T:
        try:
            return load()
        except (RuntimeError, ImportError, AttributeError) as error:
            # torch, openvino and laion_clap raise these errors.
            log.debug("traceback", exc_info=True)
            raise RunStopped(
                f"CLAP cannot be loaded: {type(error).__name__}: {printable(error)}. Install what requirements.txt "
                "pins, or free memory"
            ) from error


def decoded_windows(path: Path, max_duration_s: float, max_windows: int) -> list[Int16]:
    """Return CLAP's windows of an audio file; raises `UsageError` if it cannot be decoded."""
    try:
        with (
            open_regular(str(path)) as file,
            tempfile.TemporaryDirectory() as folder,
            StandardisedAudio(Path(folder)) as audio,
        ):
            standardise(file, audio, max_duration_s)
            return cut_windows(audio, max_windows)
    except (BrokenFile, soundfile.LibsndfileError) as error:
        raise UsageError(f"{printable(path)}: cannot be decoded: {printable(text_of_error(error))}") from None


def vector_of_hex(text: str | None) -> Float32 | None:
    """Return the vector, (512,), that SQLite's hex() printed."""
    return None if text is None else np.frombuffer(bytes.fromhex(text), "<f4")
