"""CLAP on torch, on a CPU and on a (fake) GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from patching import replace_name
from stem_dataset.clap.torch_engine import choose_device, refuse_imitated_bf16
from stem_dataset.errors import UsageError

# -- which device ----------------------------------------------------------------------------------------------------


class AskedTorch(ModuleType):
    """torch, as far as it is asked for a GPU."""

    def __init__(self, has_gpu: bool) -> None:
        super().__init__("torch")
        self.cuda = SimpleNamespace(is_available=lambda: has_gpu)
        self.version = SimpleNamespace(cuda=None)


@pytest.fixture
def device_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`choose_device` where a driver has left a trace or not, and torch sees a GPU or not; None: it is not there."""

    def device_of(wanted: Any, has_trace: bool, has_gpu: bool | None) -> str:
        replace_name(monkeypatch, "GPU_DRIVER_TRACES", (str(tmp_path / "none"), str(tmp_path)) if has_trace else ())
        monkeypatch.setitem(sys.modules, "torch", None if has_gpu is None else AskedTorch(has_gpu))
        return choose_device(wanted)

    return device_of


def test_where_no_driver_has_left_a_trace_torch_is_not_asked(device_of: Callable[..., str]) -> None:
    assert device_of("auto", has_trace=False, has_gpu=None) == "cpu"
    with pytest.raises(ImportError):
        device_of("auto", has_trace=True, has_gpu=None)  # else this test shows nothing


def test_cpu_is_cpu_whatever_there_is(device_of: Callable[..., str]) -> None:
    assert device_of("cpu", has_trace=True, has_gpu=None) == "cpu"


@pytest.mark.parametrize(("has_gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_the_gpu_that_torch_sees(device_of: Callable[..., str], has_gpu: bool, device: str) -> None:
    assert device_of("auto", has_trace=True, has_gpu=has_gpu) == device


@pytest.mark.parametrize("has_trace", [False, True])
def test_cuda_asks_torch_and_not_the_driver(device_of: Callable[..., str], has_trace: bool) -> None:
    assert device_of("cuda", has_trace, has_gpu=True) == "cuda"
    with pytest.raises(UsageError, match=r"--device cuda: torch, built without CUDA, sees .*use --device cpu or auto"):
        device_of("cuda", has_trace, has_gpu=False)


def test_bf16_is_refused_where_torch_only_imitates_it() -> None:
    with pytest.raises(UsageError, match=r"precision bf16: on a CPU torch only emulates it.*use precision f32"):
        refuse_imitated_bf16("cpu")
