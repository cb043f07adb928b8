"""CLAP on torch, on a CPU or on a GPU."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stem_dataset.audio.windowing import WINDOW_SAMPLES, waveform_of
from stem_dataset.clap.audio_tower import TOWER_PARTS, TOWER_STEPS, audio_tower, full_window
from stem_dataset.clap.checkpoints import ModelCache, Weights
from stem_dataset.clap.download import fetch_weights
from stem_dataset.clap.engine import (
    CpuEngine,
    Engine,
    TextVectors,
    first_difference,
    reference_signal,
    reference_window,
    sampled,
)
from stem_dataset.clap.safe_load import architecture_of, read_checkpoint, refuse_damage
from stem_dataset.clap.vectors import well_formed
from stem_dataset.config import Config
from stem_dataset.datatypes import EMBEDDING_SIZE, Float32
from stem_dataset.errors import UsageError, WeightsMissing
from stem_dataset.logs import log, printable, prints_to_log
from stem_dataset.resources import usable_cores

# Files that a GPU's driver creates: NVIDIA's on Linux, in WSL, on a Jetson and on Windows, and AMD's.
GPU_DRIVER_TRACES = (
    *("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg", "/dev/nvmap"),
    *(r"C:\Windows\System32\nvcuda.dll", "/dev/kfd"),
)
# A window takes about 60 MB in f32, so this is 3 GB. 96 windows and the reference signal fill two batches.
CUDA_BATCH_WINDOWS = 49


def refuse_imitated_bf16(device: str) -> None:
    """Raise `UsageError` if torch would only imitate bf16; called before anything is downloaded."""
    import torch

    if device == "cpu" or not torch.cuda.is_bf16_supported(including_emulation=False):
        where = "on a CPU" if device == "cpu" else f"on a {torch.cuda.get_device_name()}"
        raise UsageError(f"precision bf16: {where} torch only emulates it, which is slower; use precision f32")


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """Return where CLAP runs.

    torch takes seconds to import, so it is asked only if a GPU's driver is installed.
    """
    if wanted == "cpu" or (wanted == "auto" and not any(map(os.path.exists, GPU_DRIVER_TRACES))):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise UsageError(f"--device cuda: torch, {built}, sees no CUDA device here; use --device cpu or auto")
    return "cpu"


def warn_of_stand_in(is_stand_in: bool, weights: Weights) -> None:
    """Warn if the checkpoint is an untrained stand-in."""
    if is_stand_in:
        log.warning("%s is an untrained stand-in for CLAP: its vectors mean nothing", printable(weights.name))


def load_module(weights: Weights, config: Config, device: str) -> Any:
    """Build laion_clap's `CLAP_Module` with `weights`, without running code that the checkpoint may contain."""
    cache = ModelCache(config.model_cache)
    checkpoint_file = fetch_weights(weights, cache)
    # The sha256 of a published checkpoint has been checked already.
    if weights.architecture is None:
        refuse_damage(checkpoint_file)
    # laion_clap prints to stdout, and transformers draws bars on stderr.
    with prints_to_log():
        state, is_stand_in = read_checkpoint(checkpoint_file, config.trust_checkpoint)
        architecture = weights.architecture or architecture_of(state, checkpoint_file)
        import laion_clap

        module = laion_clap.CLAP_Module(enable_fusion=False, device=device, amodel=architecture)
        try:
            module.model.load_state_dict(state)
        except RuntimeError as error:
            # torch lists the name of every missing tensor: 12 kB.
            names = printable(str(error)[:500])
            raise WeightsMissing(f"{printable(checkpoint_file)}: does not fit {architecture}: {names} …") from None
    # Without gradients, no call needs torch.inference_mode to keep its memory small.
    module.model.eval().requires_grad_(False)
    module.architecture, module.is_stand_in = architecture, is_stand_in
    return module


def stock_reference(module: Any) -> Float32:
    """Return laion_clap's own vector, (512,), of the reference signal."""
    import torch

    with torch.inference_mode(), prints_to_log():
        vector: Float32 = module.get_audio_embedding_from_data([waveform_of(reference_signal())])[0]
    if not well_formed(vector):
        raise WeightsMissing(
            "the checkpoint's vector of a reference signal is not finite: download the checkpoint again"
        )
    return vector


class TorchEngine:
    """The common part of the engines on torch."""

    tower: Any

    def first_wrong_part(self, stream: int) -> str | None:
        """See `Engine`.

        The expected values come from the same tower in double precision on the CPU.
        """
        import torch

        exact = copy.deepcopy(self.tower).cpu().double()
        device = next(self.tower.parameters()).device
        expected: dict[str, list[float]] = {}
        outputs: dict[str, npt.ArrayLike] = {}
        with torch.inference_mode():
            window = torch.from_numpy(reference_window()[None])
            value, exact_value = self.tower.power(window.to(device)), exact.power(window.double())
            for name, step in zip(TOWER_PARTS, TOWER_STEPS, strict=True):
                value, exact_value = getattr(self.tower, step)(value), getattr(exact, step)(exact_value)
                outputs[name], expected[name] = value.cpu().numpy(), sampled(exact_value.numpy())
        return first_difference(outputs.items(), expected, self.precision)  # type: ignore[attr-defined]


class TorchCpuClap(TorchEngine, CpuEngine):
    """The audio tower on torch, for platforms without openvino.

    Each core computes one window at a time. Larger batches are slower. A pool of threads that wait for each other at
    every layer is five times slower while the workers use the same cores.
    """

    engine = "torch/cpu"

    def __init__(self, module: Any, precision: str, texts: TextVectors) -> None:
        import torch

        super().__init__(module.architecture, precision, texts)
        torch.set_num_threads(1)
        self.tower = audio_tower(module, precision)
        self.streams = [self._vector] * usable_cores()

    def _vector(self, window: Float32) -> Float32:
        import torch

        with torch.inference_mode():  # valid for this thread only
            vector: Float32 = self.tower(torch.from_numpy(window[None]))[0].numpy()
        return vector


@dataclass(frozen=True)
class GpuBatch:
    """Windows that the GPU is computing.

    vectors: a torch.Tensor (n, 512) in pinned memory, valid after `done`
    done: a torch.cuda.Event
    """

    vectors: Any
    done: Any

    def __len__(self) -> int:
        return len(self.vectors)

    def read(self) -> Float32:
        """Wait for this batch, not for the next one in the queue."""
        self.done.synchronize()
        vectors: Float32 = self.vectors.numpy()
        return vectors


class TorchCudaClap(TorchEngine, Engine):
    """The audio tower on a GPU, in batches that fit its memory.

    One batch is copied while another is computed.
    """

    engine = "torch/cuda"

    def __init__(self, module: Any, precision: str, texts: TextVectors) -> None:
        import torch

        super().__init__(module.architecture, precision, texts)
        # Otherwise cuDNN would use TF32, which keeps 10 bits of 23.
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # made at run time
        self.tower = audio_tower(module, precision)
        self.batch_size = CUDA_BATCH_WINDOWS

    def embed(self, x: Sequence[Float32]) -> tuple[Float32, Float32]:
        """See `Engine`. The reference signal is the last window.

        If the GPU's memory runs out, batches are halved for the rest of the run, down to one window.
        """
        import torch

        vectors = np.empty((len(x) + 1, EMBEDDING_SIZE), np.float32)
        start, running = 0, None
        while start < len(vectors) or running is not None:
            launched = None
            if start < len(vectors):
                waveforms = list(x[start : start + self.batch_size])
                if len(waveforms) < self.batch_size:
                    waveforms.append(reference_window())
                try:
                    launched = (start, self._launch(waveforms))
                    start += len(waveforms)
                except torch.OutOfMemoryError:
                    if self.batch_size == 1 and running is None:
                        raise
                    self._halve_batch()
            if running is not None:
                row, batch = running
                vectors[row : row + len(batch)] = batch.read()
            running = launched
        return vectors[:-1], vectors[-1:]

    def _launch(self, waveforms: Sequence[Float32]) -> GpuBatch:
        """Start a batch.

        All batches have the same shape, because the GPU's library may sum differently for another.
        """
        import torch

        # A copy from pinned memory runs in the background.
        pinned = torch.empty(self.batch_size, WINDOW_SAMPLES, pin_memory=True)
        for row, waveform in enumerate(waveforms):
            pinned[row] = torch.from_numpy(full_window(waveform))
        pinned[len(waveforms) :] = 0
        with torch.inference_mode():
            # In a stream of its own, the copy runs while the GPU computes.
            with torch.cuda.stream(self.copies):
                windows = pinned.to("cuda", non_blocking=True)
            torch.cuda.current_stream().wait_stream(self.copies)
            # Otherwise this memory would be reused as soon as the function returns.
            windows.record_stream(torch.cuda.current_stream())
            vectors = self.tower(windows)[: len(waveforms)]
            back = torch.empty(vectors.shape, pin_memory=True).copy_(vectors, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return GpuBatch(back, done)

    @functools.cached_property
    def copies(self) -> Any:
        """The CUDA stream for copies."""
        import torch

        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def _halve_batch(self) -> None:
        # With batches of one window, the running batch takes all memory; it will be finished soon.
        if self.batch_size > 1:
            self.batch_size //= 2
            log.info("the GPU's memory ran out: from now on %d windows at a time", self.batch_size)
