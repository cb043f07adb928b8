"""What every engine of CLAP is: vectors of windows, proved by the reference signal, and vectors of texts."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stem_dataset.audio.windowing import WINDOW_SAMPLES, waveform_of
from stem_dataset.clap.audio_tower import full_window
from stem_dataset.clap.checkpoints import ModelCache, Weights
from stem_dataset.clap.vectors import blob_of, cosine_distance_of
from stem_dataset.config import Config
from stem_dataset.datatypes import EMBEDDING_BYTES, EMBEDDING_SIZE, Float32, Float64, Int16, storable
from stem_dataset.logs import prints_to_log

LEAST_COSINE = {"f32": 0.999_999, "bf16": 0.999_9}  # with stock laion_clap in f32
AUDIO_LIBRARIES = ("soundfile", "av", "soxr", "numpy")  # decide, beside the engine, what a vector is


class ClapModel(Protocol):
    """What the run needs of CLAP: the two methods of laion_clap's `CLAP_Module`, and who computes them."""

    engine: str  # 'openvino/cpu', 'torch/cuda', 'torch/cpu'
    architecture: str
    versions: dict[str, str]  # of the libraries that make the vectors

    @property
    def reference(self) -> Float32:
        """Its vector, (512,), of `reference_signal`, when it was loaded."""

    def get_audio_embedding_from_data(self, x: Sequence[Float32]) -> Float32:
        """Return (N, 512) float32 of unit length for N mono windows at 48 kHz in [-1, 1] of 1 to 480,000 samples."""

    def get_text_embedding(self, x: Sequence[str]) -> Float32:
        """Return (N, 512) float32 of unit length for N texts."""


ModelLoader = Callable[[Weights, Config], ClapModel]


class UnprovedVectors(Exception):
    """A stream of an engine did not give laion_clap's vector of the reference signal."""

    def __init__(self, finding: str, way_out: str) -> None:
        super().__init__(f"{finding}. {way_out}")
        self.finding = finding
        self.way_out = way_out


def library_versions(*names: str) -> dict[str, str]:
    """Return the versions of installed packages without importing them."""
    return {name: importlib.metadata.version(name) for name in names}


class TextVectors:
    """CLAP's vectors of texts, each in a file with its hash, so that torch is loaded only for texts that are new."""

    def __init__(self, folder: Path, cache: ModelCache, load: Callable[[], Any]) -> None:
        self.folder = folder
        self.cache = cache
        self.load = functools.cache(load)  # returns a CLAP_Module: ten seconds, which the next new text need not wait

    def of(self, texts: Sequence[str]) -> Float32:
        """Return (N, 512) float32 of unit length."""
        vectors = {text: self._kept(text) for text in texts}
        missing = [text for text, vector in vectors.items() if vector is None]
        for text, vector in zip(missing, self._embed(missing), strict=True):
            content = blob_of(vector)
            self.cache.keep(self._file_of(text), content + hashlib.sha256(content).digest())
            vectors[text] = vector
        return np.array([vectors[text] for text in texts], np.float32).reshape(-1, EMBEDDING_SIZE)

    def _file_of(self, text: str) -> Path:
        return self.folder / f"{hashlib.sha256(storable(text).encode()).hexdigest()}.f32"

    def _kept(self, text: str) -> Float32 | None:
        try:
            content = self._file_of(text).read_bytes()
        except OSError:
            return None
        vector, digest = content[:EMBEDDING_BYTES], content[EMBEDDING_BYTES:]
        return np.frombuffer(vector, "<f4") if hashlib.sha256(vector).digest() == digest else None

    def _embed(self, texts: Sequence[str]) -> list[Float32]:
        if not texts:
            return []
        import torch

        module = self.load()
        with torch.inference_mode(), prints_to_log():
            return [module.get_text_embedding([storable(text)])[0] for text in texts]


class Engine:
    """What the engines share: who they are, the proof of each stream, and the vectors of texts.

    A stream is what computes windows one after the other: a compiled model and its request, or a thread of torch.
    """

    engine: str  # '<library>/<device>'
    reference: Float32  # this engine's vector, (512,), of `reference_signal`; set by `check_engine`
    stock: Float64  # laion_clap's own

    def __init__(self, architecture: str, precision: str, texts: TextVectors) -> None:
        self.architecture = architecture
        self.precision = precision
        self.texts = texts
        self.versions = library_versions(self.engine.split("/")[0], "laion-clap", *AUDIO_LIBRARIES)

    def get_audio_embedding_from_data(self, x: Sequence[Float32]) -> Float32:
        """See `ClapModel`. Raises `UnprovedVectors` where a stream's vector of the reference signal is wrong after it
        has computed its share of `x`."""
        vectors, proofs = self.embed(x)
        self.check(proofs)
        return vectors

    def embed(self, x: Sequence[Float32]) -> tuple[Float32, Float32]:
        """Return the vectors of `x`, (N, 512), and each stream's of the reference signal, (streams, 512), computed
        after its share of `x`."""
        raise NotImplementedError

    def check(self, proofs: Float32) -> None:
        """Raise `UnprovedVectors` where one of `proofs`, (streams, 512), is not stock laion_clap's vector."""
        cosines = proofs.astype(np.float64) @ self.stock
        stream = int(np.argmin(np.where(np.isnan(cosines), -np.inf, cosines)))
        least = LEAST_COSINE[self.precision]
        if not cosines[stream] >= least:  # a NaN is no agreement
            raise UnprovedVectors(
                f"{self.engine} {json.dumps(self.versions)} does not give laion_clap's vectors on this processor "
                f"({processor_name()}): stream {stream + 1} of {len(proofs)} has a cosine of {cosines[stream]:.7f} for "
                f"the reference signal, and at least {least} is asked in {self.precision}; the first part of the model "
                f"that differs is the {self.first_wrong_part(stream)}",
                self.way_out(),
            )

    def first_wrong_part(self, stream: int) -> str:
        """Return which of `TOWER_PARTS` is the first whose output a stream computes wrongly."""
        raise NotImplementedError

    def way_out(self) -> str:
        """Return what a user of this machine can do where this engine is wrong."""
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
    """An engine whose streams each take a window at a time, in a thread of their own."""

    streams: Sequence[Callable[[Float32], Float32]]  # a full window (480000,) to its vector (512,)

    @functools.cached_property
    def threads(self) -> ThreadPoolExecutor:
        """One thread for each stream."""
        return ThreadPoolExecutor(len(self.streams))

    def embed(self, x: Sequence[Float32]) -> tuple[Float32, Float32]:
        """See `Engine`. A vector does not depend on the list, and memory does not grow with it."""
        vectors = np.empty((len(x), EMBEDDING_SIZE), np.float32)
        rows = iter(range(len(x)))  # shared by the threads: the GIL makes each step of it atomic

        def work(stream: Callable[[Float32], Float32]) -> Float32:
            for row in rows:
                vectors[row] = stream(full_window(x[row]))
            return stream(reference_window())

        futures = [self.threads.submit(work, stream) for stream in self.streams]
        wait(futures)  # also where a window is refused: the next call finds each stream at rest
        return vectors, np.stack([future.result() for future in futures])


@functools.cache
def reference_window() -> Float32:
    """Return the reference signal, (480000,), as `full_window` prepares it."""
    return full_window(waveform_of(reference_signal()))


def sampled(output: npt.ArrayLike) -> list[float]:
    """Return up to about 1,000 numbers of what a part of the tower gave, by which it is compared."""
    numbers = np.asarray(output, np.float64).ravel()
    return [float(number) for number in numbers[:: max(1, numbers.size // 1_000)]]


def first_difference(
    outputs: Iterable[tuple[str, npt.ArrayLike]], expected: Mapping[str, Sequence[float]], precision: str
) -> str:
    """Return the name of the first of `outputs` that has another direction than `expected`, as `sampled` has them."""
    for name, output in outputs:
        if not 1 - cosine_distance_of(sampled(output), expected[name]) >= LEAST_COSINE[precision]:
            return name
    return "whole, which was right when it was computed once more"


def processor_name() -> str:
    """Return what the system calls this machine's processor."""
    with contextlib.suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def check_engine(engine: Engine, stock: npt.ArrayLike) -> None:
    """Note the engine's vector of the reference signal; raise `UnprovedVectors` where a stream's is not `stock`,
    (512,), which stock laion_clap gave."""
    engine.stock = np.array(stock, np.float64)
    _, proofs = engine.embed([])
    engine.reference = proofs[0]
    engine.check(proofs)


def reference_signal() -> Int16:
    """Return ten seconds made from integers alone: no decoder and no random numbers can change it."""
    steps = np.arange(WINDOW_SAMPLES, dtype=np.int64)
    return ((steps * steps // 97) % 40_009 - 20_004).astype(np.int16)
