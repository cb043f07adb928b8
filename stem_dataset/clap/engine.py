"""The common part of all CLAP engines.

An engine computes vectors of windows, proved by the reference signal, and vectors of texts.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import io
import json
import platform
import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stem_dataset.audio.windowing import WINDOW_SAMPLES, waveform_of
from stem_dataset.clap.audio_tower import full_window
from stem_dataset.clap.checkpoints import ModelCache, Weights
from stem_dataset.clap.vectors import cosine_distance_of
from stem_dataset.config import Config
from stem_dataset.datatypes import EMBEDDING_SIZE, Float32, Float64, Int16, storable
from stem_dataset.logs import log, printable, prints_to_log

# The least cosine with stock laion_clap in f32.
LEAST_COSINE = {"f32": 0.999_999, "bf16": 0.999_9}
# Together with the engine, these libraries determine a vector.
AUDIO_LIBRARIES = ("soundfile", "av", "soxr", "numpy")


class ClapModel(Protocol):
    """What a run needs of CLAP.

    It has the two methods of laion_clap's `CLAP_Module`, and says what computes them.

    engine: 'openvino/cpu', 'torch/cuda' or 'torch/cpu'
    versions: those of the libraries that make the vectors
    """

    engine: str
    architecture: str
    versions: dict[str, str]

    @property
    def reference(self) -> Float32:
        """The vector, (512,), of `reference_signal`, computed when the engine was loaded."""

    def get_audio_embedding_from_data(self, x: Sequence[Float32]) -> Float32:
        """Return the vectors of N windows, (N, 512) float32 of unit length.

        A window is mono at 48 kHz in [-1, 1], with 1 to 480,000 samples.
        """

    def get_text_embedding(self, x: Sequence[str]) -> Float32:
        """Return (N, 512) float32 of unit length for N texts."""


ModelLoader = Callable[[Weights, Config], ClapModel]


class UnprovedVectors(Exception):
    """A stream's vector of the reference signal is not laion_clap's."""

    def __init__(self, finding: str, way_out: str) -> None:
        super().__init__(f"{finding}. {way_out}")
        self.finding = finding
        self.way_out = way_out


def library_versions(*names: str) -> dict[str, str]:
    """Return the versions of installed packages without importing them."""
    return {name: importlib.metadata.version(name) for name in names}


class TextVectors:
    """CLAP's vectors of texts, kept in one file per checkpoint.

    The file is an .npz archive that holds each vector under its text's sha256. Only a text that it lacks needs a model.
    """

    def __init__(self, file: Path, cache: ModelCache, load: Callable[[], Any]) -> None:
        """Note where the vectors are, and how to load what embeds a new text.

        `load` returns a CLAP_Module, which takes ten seconds, or a `TextTower`. It is called once, and only for a new
        text.
        """
        self.file = file
        self.cache = cache
        self.load = functools.cache(load)
        # A page is asked by several threads at once, and a model answers one of them at a time.
        self.lock = threading.Lock()

    def of(self, texts: Sequence[str]) -> Float32:
        """Return (N, 512) float32 of unit length."""
        wanted = {key_of_text(text): text for text in texts}
        vectors = self._read(wanted)
        if len(vectors) < len(wanted):
            with self.lock:
                # Another thread may have added some while this one waited.
                vectors = self._read(wanted)
                vectors |= self._embed({key: text for key, text in wanted.items() if key not in vectors})
        return np.array([vectors[key_of_text(text)] for text in texts], np.float32).reshape(-1, EMBEDDING_SIZE)

    def _read(self, keys: Container[str] | None = None) -> dict[str, Float32]:
        """Return the vectors in the file, or those of `keys` alone; {} if missing or damaged."""
        try:
            # If numpy opens a damaged file itself, it does not close it.
            with open(self.file, "rb") as file, np.load(file) as archive:
                return {key: archive[key] for key in archive if keys is None or key in keys}
        except FileNotFoundError:
            return {}
        except Exception as error:
            # A damaged archive may raise anything: BadZipFile, zlib.error, ValueError, …
            log.debug("%s cannot be read, so its vectors are computed again: %s", printable(self.file), error)
            return {}

    def _embed(self, texts: Mapping[str, str]) -> dict[str, Float32]:
        """Return the vectors of `texts` under the keys of these, and keep them."""
        if not texts:
            return {}
        model = self.load()
        with prints_to_log():
            vectors = {key: model.get_text_embedding([storable(text)])[0] for key, text in texts.items()}
        archive = io.BytesIO()
        # Read after the texts were computed: another process may have added its own meanwhile.
        np.savez(archive, **{**self._read(), **vectors})
        self.cache.keep(self.file, archive.getvalue())
        return vectors


def key_of_text(text: str) -> str:
    """Return the name of a text's vector in the archive."""
    return hashlib.sha256(storable(text).encode()).hexdigest()


class Engine:
    """The common part of all engines.

    It has the engine's name and versions, the proof of each stream, and the vectors of texts. A stream computes windows
    one after another: a compiled model and its request, or a thread of torch.
    """

    engine: str  # '<library>/<device>'
    # This engine's vector, (512,), of `reference_signal`; `check_engine` sets it.
    reference: Float32
    # laion_clap's own vector of `reference_signal`.
    stock: Float64

    def __init__(self, architecture: str, precision: str, texts: TextVectors) -> None:
        self.architecture = architecture
        self.precision = precision
        self.texts = texts
        self.versions = library_versions(self.engine.split("/")[0], "laion-clap", *AUDIO_LIBRARIES)

    def get_audio_embedding_from_data(self, x: Sequence[Float32]) -> Float32:
        """See `ClapModel`.

        Raises `UnprovedVectors` if a stream's vector of the reference signal is wrong after the stream's share of `x`.
        """
        vectors, proofs = self.embed(x)
        self.check(proofs)
        return vectors

    def embed(self, x: Sequence[Float32]) -> tuple[Float32, Float32]:
        """Return the vectors of `x`, and of the reference signal.

        Their shapes are (N, 512) and (streams, 512). Each stream computes the reference signal after its share of `x`.
        """
        raise NotImplementedError

    def check(self, proofs: Float32) -> None:
        """Raise `UnprovedVectors` if one of `proofs`, (streams, 512), is not stock laion_clap's vector."""
        cosines = proofs.astype(np.float64) @ self.stock
        stream = int(np.argmin(np.where(np.isnan(cosines), -np.inf, cosines)))
        least = LEAST_COSINE[self.precision]
        # `not >=` also catches NaN.
        if not cosines[stream] >= least:
            part = self.first_wrong_part(stream)
            where = (
                f"the first part of the model that differs is the {part}"
                if part
                else "every part was right when computed again"
            )
            raise UnprovedVectors(
                f"{self.engine} {json.dumps(self.versions)} does not give laion_clap's vectors on this processor "
                f"({processor_name()}): stream {stream + 1} of {len(proofs)} has a cosine of {cosines[stream]:.7f} for "
                f"the reference signal, and at least {least} is required in {self.precision}; {where}",
                self.way_out(),
            )

    def first_wrong_part(self, stream: int) -> str | None:
        """Return the first of `TOWER_PARTS` that a stream computes wrongly.

        The result is None if all are right now.
        """
        raise NotImplementedError

    def way_out(self) -> str:
        """Return what the user can do if this engine is wrong."""
        if self.precision == "bf16":
            return "Use --precision f32"
        if self.engine == "torch/cuda":
            return "Use --device cpu"
        if self.engine == "openvino/cpu":
            return "Without openvino (`pip uninstall openvino`) CLAP runs on torch, which is slower"
        return "Install what requirements.txt pins: pip install -r requirements.txt"

    def get_text_embedding(self, x: Sequence[str]) -> Float32:
        """See `ClapModel`."""
        return self.texts.of(x)


class CpuEngine(Engine):
    """An engine whose streams each have a thread of their own.

    Each stream takes one window at a time.
    """

    # Each turns a full window, (480000,), into its vector, (512,).
    streams: Sequence[Callable[[Float32], Float32]]

    @functools.cached_property
    def threads(self) -> ThreadPoolExecutor:
        """One thread per stream."""
        return ThreadPoolExecutor(len(self.streams))

    def embed(self, x: Sequence[Float32]) -> tuple[Float32, Float32]:
        """See `Engine`.

        A vector does not depend on the other windows, and memory does not grow with their number.
        """
        vectors = np.empty((len(x), EMBEDDING_SIZE), np.float32)
        # The threads share this iterator. Because of the GIL, each step is atomic.
        rows = iter(range(len(x)))

        def work(stream: Callable[[Float32], Float32]) -> Float32:
            for row in rows:
                vectors[row] = stream(full_window(x[row]))
            return stream(reference_window())

        futures = [self.threads.submit(work, stream) for stream in self.streams]
        # Wait even if a window was refused: no stream may still be running at the next call.
        wait(futures)
        return vectors, np.stack([future.result() for future in futures])


@functools.cache
def reference_window() -> Float32:
    """Return the reference signal, (480000,), as `full_window` prepares it."""
    return full_window(waveform_of(reference_signal()))


def sampled(output: npt.ArrayLike) -> list[float]:
    """Return about 1,000 numbers from a part's output, for comparison."""
    numbers = np.asarray(output, np.float64).ravel()
    return [float(number) for number in numbers[:: max(1, numbers.size // 1_000)]]


def first_difference(
    outputs: Iterable[tuple[str, npt.ArrayLike]], expected: Mapping[str, Sequence[float]], precision: str
) -> str | None:
    """Return the name of the first output that differs; None if none does.

    An output differs if its direction is not that of `expected`, as `sampled` has them.
    """
    for name, output in outputs:
        if not 1 - cosine_distance_of(sampled(output), expected[name]) >= LEAST_COSINE[precision]:
            return name
    return None


def processor_name() -> str:
    """Return the system's name of this machine's processor."""
    # Only Linux has this file.
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def check_engine(engine: Engine, stock: npt.ArrayLike) -> None:
    """Store the engine's vector of the reference signal, and check it.

    Raises `UnprovedVectors` if a stream's vector differs from `stock`. `stock`, (512,), is stock laion_clap's vector.
    """
    engine.stock = np.array(stock, np.float64)
    _, proofs = engine.embed([])
    engine.reference = proofs[0]
    engine.check(proofs)


def reference_signal() -> Int16:
    """Return ten seconds of audio that are made from integers alone.

    No decoder and no random numbers can change them.
    """
    steps = np.arange(WINDOW_SAMPLES, dtype=np.int64)
    return ((steps * steps // 97) % 40_009 - 20_004).astype(np.int16)
