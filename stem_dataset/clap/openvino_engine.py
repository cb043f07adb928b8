"""CLAP compiled by OpenVINO for this CPU.

The compiled tower is kept in the model cache.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stem_dataset.audio.windowing import WINDOW_SAMPLES
from stem_dataset.clap.audio_tower import TOWER_PARTS, audio_tower, power_spectrum, tower_parts
from stem_dataset.clap.checkpoints import ModelCache, Weights, read_json
from stem_dataset.clap.engine import (
    CpuEngine,
    TextVectors,
    UnprovedVectors,
    check_engine,
    first_difference,
    library_versions,
    reference_window,
    sampled,
)
from stem_dataset.clap.torch_engine import load_module, stock_reference, warn_of_stand_in
from stem_dataset.config import Config
from stem_dataset.datatypes import Float32
from stem_dataset.errors import UsageError
from stem_dataset.files import put_in_place
from stem_dataset.logs import log, printable, prints_to_log
from stem_dataset.resources import inference_threads

# The largest share of its time that a CPU engine spends on proofs.
PROOF_SHARE = 0.03


class OpenVinoStream:
    """The parts of the audio tower, compiled for some of the cores.

    Each part has one request.
    """

    def __init__(self, core: Any, tower: Sequence[Any], precision: str, threads: int) -> None:
        """Compile `tower`, an openvino.Model for each of `TOWER_PARTS`.

        Each stream has compiled models of its own. With NUM_STREAMS > 1 OpenVINO builds one graph for each stream of a
        model at the same time, and the graphs share a cache of repacked weights whose keys hold memory addresses: one
        of two streams computed another function in about 2 of 100 starts (2026.4.1; benchmarks/stress_engine.py).
        """
        self.requests = []
        for name, part in zip(TOWER_PARTS, tower, strict=True):
            # Only the transformer may run in bf16: with the spectrogram in bf16 the cosine with f32 falls below 0.9999.
            options = cpu_options(precision if name == "transformer" else "f32", threads)
            self.requests.append(core.compile_model(part, "CPU", options).create_infer_request())
        self.frequencies = tower[0].input(0).shape[-1]

    def outputs(self, window: Float32) -> Iterator[Float32]:
        """Yield the output of each part for a full window, (480000,)."""
        value = power_spectrum(window, self.frequencies)[None, None]
        for request in self.requests:
            request.infer({0: value})
            value = request.get_output_tensor().data
            yield value

    def __call__(self, window: Float32) -> Float32:
        """Return the vector, (512,), of a full window."""
        *_, vectors = self.outputs(window)
        vector: Float32 = vectors[0].copy()
        return vector


class OpenVinoClap(CpuEngine):
    """The audio tower compiled for this CPU."""

    engine = "openvino/cpu"

    def __init__(self, tower: Sequence[Any], card: Mapping[str, Any], config: Config, texts: TextVectors) -> None:
        """Compile `tower` for the cores that this process may use.

        `tower` is an openvino.Model for each of `TOWER_PARTS`.
        """
        super().__init__(card["architecture"], config.precision, texts)
        self.expected_parts = card["reference_parts"]
        core = import_openvino().Core()
        threads = inference_threads()
        count = stream_count(threads, config.batch_windows)
        # For example 5 threads on 2 streams: 3 and 2.
        shares = [len(range(first, threads, count)) for first in range(count)]
        self.streams = [OpenVinoStream(core, tower, config.precision, share) for share in shares]
        # Two threads that make their first call into OpenVINO's bindings at the same moment can deadlock.
        self.streams[0](reference_window())

    def first_wrong_part(self, stream: int) -> str | None:
        """See `Engine`.

        The parts are computed again, so a fault that comes and goes may not show.
        """
        outputs = self.streams[stream].outputs(reference_window())  # type: ignore[attr-defined]
        return first_difference(zip(TOWER_PARTS, outputs, strict=True), self.expected_parts, self.precision)


def stream_count(threads: int, batch_windows: int) -> int:
    """Return how many streams share `threads`.

    Their proofs after each batch must stay within `PROOF_SHARE`. Streams of one thread are the fastest: two of them are
    a tenth faster than one of two threads.
    """
    return max(1, min(threads, int(PROOF_SHARE * batch_windows)))


def import_openvino() -> Any:
    """Import openvino without its telemetry package.

    openvino has a stub for the case that it is missing.
    """
    # None makes an import fail.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def cpu_options(precision: str, threads: int) -> dict[str, Any]:
    """Return the options to compile a part of a tower with, for one stream."""
    return {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # A pinned thread waits for a worker that uses its core, even if other cores are free.
        "ENABLE_CPU_PINNING": False,
        # By default OpenVINO uses bf16 or f16 if the processor has it.
        "INFERENCE_PRECISION_HINT": precision,
    }


def check_bf16(precision: str) -> None:
    """Raise `UsageError` if this CPU would only imitate bf16.

    This comes before a tower is built, which takes half a minute. If the CPU has bf16 and the user did not ask for it,
    say so.
    """
    has_bf16 = "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not has_bf16:
        raise UsageError("precision bf16: this CPU has no instructions for it (AVX512-BF16, AMX); use precision f32")
    if precision == "f32" and has_bf16:
        log.info(
            "--precision bf16 is about twice as fast on this processor; its vectors are not comparable with f32 vectors"
        )


# Reading, compiling or proving a damaged tower may raise these. OpenVINO itself raises RuntimeError.
TOWER_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, UnprovedVectors)


def load_openvino(weights: Weights, config: Config, cache: ModelCache) -> OpenVinoClap:
    """Return the engine on the kept tower, without torch.

    A tower that is missing or cannot be used is built.
    """
    check_bf16(config.precision)
    folder = cache.folder_of(weights) / tower_name()
    texts = TextVectors(cache.folder_of(weights) / "texts.npz", cache, lambda: load_module(weights, config, "cpu"))
    # Path.exists would raise for a name that is too long.
    if os.path.exists(folder / TOWER_CARD):
        try:
            return checked_openvino(*read_tower(folder, weights), config, texts, weights)
        except TOWER_ERRORS as error:
            reason = error.finding if isinstance(error, UnprovedVectors) else str(error)
            text = "%s: the compiled tower cannot be used, so it is built again: %s"
            log.warning(text, printable(folder), printable(reason))
    log.info("compiling CLAP for this CPU, once for each checkpoint (half a minute)")
    tower, card = convert_tower(load_module(weights, config, "cpu"), weights)
    engine = checked_openvino(tower, card, config, texts, weights)
    keep_tower(folder, tower, card)
    return engine


def checked_openvino(
    tower: Sequence[Any], card: Mapping[str, Any], config: Config, texts: TextVectors, weights: Weights
) -> OpenVinoClap:
    """Return the engine on `tower`, after each of its streams has been proved."""
    engine = OpenVinoClap(tower, card, config, texts)
    check_engine(engine, card["reference_vector"])
    warn_of_stand_in(card["is_stand_in"], weights)
    return engine


# The card says what the files were made from, and has stock laion_clap's reference vector. It is written last.
TOWER_CARD = "tower.json"
# Increase this when `audio_tower`, `tower_parts`, `power_spectrum` or `full_window` changes.
TOWER_RECIPE = 3


def tower_name() -> str:
    """Return the name of a tower's folder.

    Each set of versions has its own, since Windows cannot replace files in use.
    """
    versions = library_versions("openvino", "laion-clap")
    return "-".join(["openvino", versions["openvino"], "clap", versions["laion-clap"], str(TOWER_RECIPE)])


def tower_key(weights: Weights) -> dict[str, Any]:
    """Return everything that determines a compiled tower.

    The architecture is not included, since the checkpoint determines it.
    """
    versions = library_versions("openvino", "laion-clap")
    return {"checkpoint_sha256": weights.sha256, "window_samples": WINDOW_SAMPLES, "recipe": TOWER_RECIPE, **versions}


def read_tower(folder: Path, weights: Weights) -> tuple[list[Any], dict[str, Any]]:
    """Return the parts of the tower in `folder`, and its card.

    Raises one of `TOWER_ERRORS`. The files have no hashes: `check_engine` finds damage that changes a vector.
    """
    card = read_json(folder / TOWER_CARD)
    if card.get("key") != tower_key(weights) or weights.architecture not in (None, card["architecture"]):
        raise ValueError("its card is damaged, or names another checkpoint or other versions")
    core = import_openvino().Core()
    return [core.read_model(folder / f"{name}.xml") for name in TOWER_PARTS], card


def convert_tower(module: Any, weights: Weights) -> tuple[list[Any], dict[str, Any]]:
    """Return the audio tower of a `CLAP_Module`, and its card.

    The tower is an openvino.Model, f32, for each of `TOWER_PARTS`. The card has torch's output of each part for the
    reference signal.
    """
    openvino = import_openvino()
    import torch

    tower: list[Any] = []
    outputs: dict[str, list[float]] = {}
    with prints_to_log(), warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns about every assert on a shape, but our shapes are fixed.
        warnings.simplefilter("ignore")
        whole = audio_tower(module, "f32")
        value = torch.from_numpy(power_spectrum(reference_window(), len(whole.mel))[None, None])
        for name, part in tower_parts(whole).items():
            # check_trace would compute it three more times; `check_engine` compares the vectors with laion_clap's.
            traced = torch.jit.trace(part, value, check_trace=False)  # type: ignore[no-untyped-call]
            tower.append(openvino.convert_model(traced, example_input=value, input=list(value.shape)))
            value = part(value)
            outputs[name] = sampled(value.numpy())
    facts = {"architecture": module.architecture, "is_stand_in": module.is_stand_in, "reference_parts": outputs}
    return tower, {"key": tower_key(weights), **facts, "reference_vector": stock_reference(module).tolist()}


def keep_tower(folder: Path, tower: Sequence[Any], card: dict[str, Any], parts: Sequence[str] = TOWER_PARTS) -> None:
    """Save a tower, an openvino.Model for each of `parts`, in a folder below that of its checkpoint.

    Each file is written whole or not at all, the card last.
    """
    import filelock

    scratch = folder.with_name(".tower.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Under the lock, anything in the scratch folder is left from a killed run: up to 0.5 GB.
        with filelock.FileLock(folder.with_name(".tower.lock")):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                for name, part in zip(parts, tower, strict=True):
                    import_openvino().save_model(part, scratch / f"{name}.xml", compress_to_fp16=False)
                (scratch / TOWER_CARD).write_text(json.dumps(card), encoding="utf-8")
                files = [f"{name}.{suffix}" for name in parts for suffix in ("xml", "bin")]
                for name in (*files, TOWER_CARD):
                    put_in_place(scratch / name, folder / name)
            finally:
                # Before the lock is released: afterwards the folder may belong to another process.
                shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, RuntimeError) as error:
        # openvino raises RuntimeError if it cannot write.
        log.warning("the compiled tower cannot be kept, so the next run compiles it again: %s", printable(error))
