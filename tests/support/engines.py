"""What the tests of engines share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import numpy.typing as npt

from fake_clap import fake_vector
from stem_dataset.clap import torch_engine
from stem_dataset.clap.checkpoints import ModelCache
from stem_dataset.clap.engine import TextVectors, reference_window
from stem_dataset.clap.torch_engine import TorchCudaClap

Vector = npt.NDArray[np.float32]


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


# -- a GPU that is not there -----------------------------------------------------------------------------------------


class FakeBatch:
    """Vectors that are on their way until they are read."""

    def __init__(self, gpu: FakeGpu, number: int, vectors: Vector) -> None:
        self.gpu, self.number, self.vectors = gpu, number, vectors

    def __len__(self) -> int:
        return len(self.vectors)

    def read(self) -> Vector:
        self.gpu.events.append(f"read {self.number}")
        self.gpu.windows_on_it -= len(self)
        return self.vectors


class FakeGpu(TorchCudaClap):
    """The engine for CUDA, all but its computing: a GPU with memory for so many windows at once."""

    def __init__(self, batch_size: int, memory_windows: int = 1_000) -> None:
        texts = TextVectors(Path("none"), ModelCache(Path("none")), dict)
        with mock.patch.object(torch_engine, "audio_tower"):
            super().__init__(SimpleNamespace(architecture="HTSAT-tiny"), "f32", texts)
        self.stock = fake_vector(reference_window()).astype(np.float64)
        self.batch_size, self.memory_windows = batch_size, memory_windows
        self.windows_on_it = 0
        self.launched: list[int] = []
        self.events: list[str] = []

    def _launch(self, waveforms: Sequence[Vector]) -> FakeBatch:  # type: ignore[override]
        import torch

        if self.windows_on_it + len(waveforms) > self.memory_windows:
            self.events.append("out of memory")
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.windows_on_it += len(waveforms)
        self.launched.append(len(waveforms))
        self.events.append(f"launch {len(self.launched)}")
        return FakeBatch(self, len(self.launched), np.stack([fake_vector(waveform) for waveform in waveforms]))


WAVEFORMS = list(np.random.default_rng(1).normal(size=(11, 4_800)).astype(np.float32) / 9)
