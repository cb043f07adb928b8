"""Who computes CLAP's vectors, and what is kept for the next start: towers, spoiled in every way, and GPUs that are not
there. laion_clap itself stays out of this process; the vectors are compared with its own in test_clap.py."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import prepare_dataset_sql as product
from conftest import Watch, Workplace, run_program
from fake_clap import FakeClap, Streams, fake_vector
from patching import replace_name
from stem_dataset.audio.windowing import WINDOW_SAMPLES, WINDOW_STEPS
from stem_dataset.clap import torch_engine
from stem_dataset.clap.audio_tower import TOWER_PARTS
from stem_dataset.clap.checkpoints import ModelCache, Weights
from stem_dataset.clap.embed import embed_windows
from stem_dataset.clap.engine import TextVectors, UnprovedVectors, check_engine, reference_window
from stem_dataset.clap.openvino_engine import (
    TOWER_CARD,
    TOWER_RECIPE,
    import_openvino,
    keep_tower,
    read_tower,
    sealed,
    tower_key,
)
from stem_dataset.clap.torch_engine import TorchCudaClap, choose_device, refuse_imitated_bf16
from stem_dataset.errors import RunStopped, UsageError
from stem_dataset.files import sha256_of_path
from vectors import assert_same_vectors

Vector = npt.NDArray[np.float32]
WEIGHTS = Weights("mine", "0123456789abcdef" * 4, None, "HTSAT-tiny")
UNIT = np.full(512, 512**-0.5, np.float32)


# -- towers, as they are kept ----------------------------------------------------------------------------------------


def small_tower(number: float = 1, **key: Any) -> tuple[list[Any], dict[str, Any]]:
    """Parts that each add `number`, and their card: nothing here looks into a tower."""
    openvino = import_openvino()
    parts = []
    for _ in TOWER_PARTS:
        addend = openvino.opset13.parameter([1], np.float32)
        parts.append(openvino.Model([openvino.opset13.add(addend, np.array([number], np.float32))], [addend]))
    facts = {"architecture": "HTSAT-tiny", "is_stand_in": True, "reference_vector": UNIT.tolist()}
    return parts, {"key": {**tower_key(WEIGHTS), **key}, **facts}


@pytest.fixture
def tower(tmp_path: Path) -> Path:
    """The folder of a tower that is whole."""
    folder = tmp_path / "cache" / "0123456789ab" / "openvino-1"
    keep_tower(folder, *small_tower())
    assert read_tower(folder, WEIGHTS) is not None
    return folder


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def put_a_folder_for(file: Path) -> None:
    file.unlink()
    file.mkdir()


def change_card(folder: Path, **changes: Any) -> None:
    """Write a card that says something else, and is whole."""
    card_file = folder / TOWER_CARD
    card = json.loads(card_file.read_text(encoding="utf-8"))
    card_file.write_text(json.dumps(sealed({**card, **changes})), encoding="utf-8")


def change_key(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_card(folder, key={**tower_key(WEIGHTS), **changes})


SPOIL_TOWER: dict[str, Callable[[Path], object]] = {
    "no folder": shutil.rmtree,
    "no network": lambda folder: (folder / "transformer.xml").unlink(),
    "no numbers": lambda folder: (folder / "transformer.bin").unlink(),
    "no card": lambda folder: (folder / "tower.json").unlink(),
    "network cut off": lambda folder: cut(folder / "transformer.xml"),
    "numbers cut off": lambda folder: cut(folder / "transformer.bin"),
    "card cut off": lambda folder: cut(folder / "tower.json"),
    "a flipped bit in the network": lambda folder: flip_a_byte(folder / "transformer.xml"),
    "a flipped bit in the numbers": lambda folder: flip_a_byte(folder / "transformer.bin"),
    "a flipped bit in the card": lambda folder: flip_a_byte(folder / "tower.json"),
    "an empty card": lambda folder: (folder / "tower.json").write_text("{}"),
    "a card that is a list": lambda folder: (folder / "tower.json").write_text("[]"),
    "a folder for a file": lambda folder: put_a_folder_for(folder / "transformer.bin"),
    "another checkpoint": change_key(checkpoint_sha256="f" * 64),
    "another architecture": lambda folder: change_card(folder, architecture="HTSAT-base"),
    "another openvino": change_key(openvino="2025.0.0"),
    "another laion_clap": change_key(**{"laion-clap": "1.1.6"}),
    "another recipe": change_key(recipe=TOWER_RECIPE + 1),
    "another window": change_key(window_samples=WINDOW_SAMPLES // 2),
}


@pytest.mark.parametrize("way", SPOIL_TOWER)
def test_a_tower_that_is_damaged_or_for_something_else_is_none(tower: Path, way: str) -> None:
    SPOIL_TOWER[way](tower)
    assert read_tower(tower, WEIGHTS) is None


def test_a_card_that_is_changed_and_sealed_again_is_read(tower: Path) -> None:
    change_key()(tower)  # else the cases above would show the seal alone
    assert read_tower(tower, WEIGHTS) is not None


def test_a_tower_of_ones_own_checkpoint_has_the_architecture_that_its_card_says(tower: Path) -> None:
    change_card(tower, architecture="HTSAT-base")
    card = read_tower(tower, dataclasses.replace(WEIGHTS, architecture=None))
    assert card is not None
    assert card["architecture"] == "HTSAT-base"


class Killed(BaseException):
    """What no `except` of the product catches."""


@pytest.mark.parametrize("stale", [False, True], ids=["first", "stale"])
def test_a_build_that_is_killed_leaves_no_half_tower_and_the_next_one_is_whole(tmp_path: Path, stale: bool) -> None:
    built, former = small_tower(), small_tower(number=7, recipe=0)
    keep_tower(tmp_path / "whole", *built)
    whole = contents(tmp_path / "whole")
    for steps in range(100):
        folder = tmp_path / str(steps) / "openvino-1"
        if stale:
            keep_tower(folder, *former)
        was_killed = is_killed_after(steps, functools.partial(keep_tower, folder, *built))
        assert read_tower(folder, WEIGHTS) is None or contents(folder) == whole
        if not was_killed:
            break
        keep_tower(folder, *built)
        assert contents(folder) == whole
        assert sorted(path.name for path in folder.parent.iterdir()) == [".tower.lock", "openvino-1"]
    assert steps >= 12  # two folders, rmtree, the card, seven moves, rmdir


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def is_killed_after(steps: int, save: Callable[[], object]) -> bool:
    """Save, but raise `Killed` where the disk would be changed once more after so many steps; whether it was."""
    taken = 0

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*arguments: Any, **options: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken > steps:
                raise Killed
            return step(*arguments, **options)

        return take

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (os, "replace"),
            (shutil, "rmtree"),
            (Path, "mkdir"),
            (Path, "rmdir"),
            (Path, "write_text"),
        ):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            save()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("name", ["a file", "a file/in/it", "x" * 300], ids=["a file", "in a file", "too long a name"])
def test_a_tower_that_cannot_be_kept_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (tmp_path / "a file").touch()
    folder = tmp_path / name / "0123456789ab" / "openvino-1"
    assert read_tower(folder, WEIGHTS) is None
    keep_tower(folder, *small_tower())
    assert "the compiled tower cannot be kept, so the next run compiles it again" in caplog.text


def test_openvino_that_cannot_write_its_files_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Can't open bin file to write")

    monkeypatch.setattr(import_openvino(), "save_model", fail)
    keep_tower(tmp_path / "0123456789ab" / "openvino-1", *small_tower())
    assert "the compiled tower cannot be kept" in caplog.text
    assert read_tower(tmp_path / "0123456789ab" / "openvino-1", WEIGHTS) is None


# -- a damaged tower, as a user meets it -----------------------------------------------------------------------------


def copy_of(model_cache: Path, folder: Path) -> Path:
    """Copy the cache of the first run without its 120 MB: each file is a link, to be replaced and not to be changed."""
    return Path(shutil.copytree(model_cache, folder, copy_function=os.link))


def tower_in(model_cache: Path) -> Path:
    (folder,) = model_cache.glob("*/openvino-*")
    return folder


def replace(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


def clap_flags(stand_in: Path, model_cache: Path) -> list[str]:
    return ["--checkpoint", str(stand_in / "stand-in.pt"), "--device", "cpu", "--model-cache", str(model_cache)]


@dataclass(frozen=True)
class Rebuilt:
    """A run with a tower whose numbers are cut off."""

    place: Workplace
    model_cache: Path
    result: subprocess.CompletedProcess[str]
    watch: Watch


@pytest.fixture(scope="module")
def rebuilt(stand_in: Path, model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Rebuilt:
    place = Workplace(tmp_path_factory.mktemp("rebuilt"))
    cache = copy_of(model_cache, place.folder / "model_cache")
    shutil.copytree(cache / "first_run" / "stems", place.input)
    numbers = tower_in(cache) / "transformer.bin"
    replace(numbers, numbers.read_bytes()[:-1_000_000])
    watch = Watch(place.folder / "watch.txt")
    # Online, and at home, where openvino's telemetry would find that nobody has forbidden it.
    environment = {"HF_HUB_OFFLINE": "0", "HOME": str(place.folder), **watch.environment}
    flags = [*place.flags(), *clap_flags(stand_in, cache)]
    return Rebuilt(place, cache, run_program(*flags, stand_in=stand_in, **environment), watch)


def test_a_run_with_a_damaged_tower_says_so_and_builds_it_again(rebuilt: Rebuilt, stand_in: Path) -> None:
    assert rebuilt.result.returncode == 0, rebuilt.result.stderr
    folder = tower_in(rebuilt.model_cache)
    assert (
        f"warning: {folder}: the compiled tower there is damaged or stale and is built again" in rebuilt.result.stderr
    )
    sha256 = sha256_of_path(stand_in / "stand-in.pt")
    assert read_tower(folder, Weights("stand-in", sha256, None, None)) is not None


def test_a_run_that_builds_a_tower_has_the_vectors_of_one_that_finds_it(rebuilt: Rebuilt, model_cache: Path) -> None:
    (row,), (former) = rebuilt.place.rows(), Workplace(model_cache / "first_run").rows()
    built, found = (np.frombuffer(r["clap_embedding"], "<f4") for r in (row, former[0]))
    assert_same_vectors([built], [found])  # torch sums its constants in another order with other threads


def test_a_run_that_builds_a_tower_opens_no_connection_in_any_of_its_processes(rebuilt: Rebuilt) -> None:
    assert rebuilt.result.returncode == 0
    assert rebuilt.watch.noted("network") == []
    assert "torch" in rebuilt.watch.noted("import")  # else nobody was watching


def test_the_watch_sees_the_telemetry_that_openvino_would_send(tmp_path: Path) -> None:
    send = (
        "import openvino_telemetry as telemetry\n"
        "it = telemetry.Telemetry(tid='a', app_name='b', backend='ga4', enable_opt_in_dialog=False)\n"
        "it.send_event('c', 'd', 'e')\n"
        "it.force_shutdown(1)\n"
    )
    watch = Watch(tmp_path / "watch.txt")
    environment = {**os.environ, **watch.environment, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", send], env=environment, check=True, timeout=60)
    assert any("google-analytics" in line for line in watch.noted("network"))


def run_main(place: Workplace, *flags: str) -> int:
    """Run the program in this process, on one stem that must stay as it is."""
    stem = place.input / "kick.wav"
    soundfile.write(stem, np.sin(np.arange(9_600) / 30), 48_000)
    before = stem.read_bytes()
    exit_code = product.main([*place.flags(), "--workers", "1", *flags])
    assert stem.read_bytes() == before
    assert place.rows() == []
    assert place.quarantined() == []
    return exit_code


def test_a_tower_with_other_vectors_than_laion_claps_stops_the_run_before_any_file_is_touched(
    workplace: Workplace, stand_in: Path, model_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = copy_of(model_cache, workplace.folder / "model_cache")
    card_file = tower_in(cache) / "tower.json"
    card = json.loads(card_file.read_text(encoding="utf-8"))
    turned = [-number for number in card["reference_vector"]]
    replace(card_file, json.dumps(sealed({**card, "reference_vector": turned})).encode())
    assert run_main(workplace, *clap_flags(stand_in, cache)) == 4
    stderr = capsys.readouterr().err
    assert "error: openvino/cpu" in stderr
    assert f'"openvino": "{importlib.metadata.version("openvino")}"' in stderr
    assert "has a cosine of -1.0000000 for the reference signal" in stderr
    assert "also after the engine was built again" in stderr
    assert "No file was touched" in stderr
    assert "Traceback" not in stderr


def test_a_tower_that_is_a_little_off_is_not_laion_claps() -> None:
    reference = np.zeros(512)
    reference[0] = 1
    off = np.zeros(512, np.float32)
    off[:2] = np.cos(0.002), np.sin(0.002)  # 0.999998
    with pytest.raises(UnprovedVectors, match=r"cosine of 0\.9999980 .* at least 0\.999999 is asked in f32"):
        check_engine(Streams(lambda window: off), reference)
    check_engine(Streams(lambda window: off, precision="bf16"), reference)
    off[:] = np.nan
    with pytest.raises(UnprovedVectors, match="cosine of nan"):
        check_engine(Streams(lambda window: off), reference)


# -- bf16 ------------------------------------------------------------------------------------------------------------


def cpu_has_bf16() -> bool:
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_bf16_without_its_arithmetic_is_a_usage_error_before_a_tower_is_built(
    workplace: Workplace, stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if cpu_has_bf16():
        pytest.skip("this CPU has BF16 arithmetic")
    flags = clap_flags(stand_in, workplace.folder / "cache")
    assert run_main(workplace, *flags, "--precision", "bf16") == 2
    stderr = capsys.readouterr().err
    assert "error: precision bf16: this CPU has no arithmetic for it" in stderr
    assert "use precision f32" in stderr
    assert "compiling CLAP" not in stderr


def test_vectors_in_bf16_do_not_pass_for_vectors_in_f32() -> None:
    assert WEIGHTS.embedding_model(8, "bf16") == "mine@0123456789ab/bf16/10s-max8"
    assert WEIGHTS.embedding_model(8, "bf16") != WEIGHTS.embedding_model(8, "f32")


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
    with pytest.raises(UsageError, match=r"precision bf16: on a CPU torch only imitates it.*use precision f32"):
        refuse_imitated_bf16("cpu")


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
EXPECTED = np.stack([fake_vector(waveform) for waveform in WAVEFORMS])


@pytest.mark.parametrize("batch_size", [1, 3, 11, 32])
def test_a_gpus_rows_are_in_the_order_of_the_windows_whatever_the_batches(batch_size: int) -> None:
    gpu = FakeGpu(batch_size)
    assert np.array_equal(gpu.get_audio_embedding_from_data(WAVEFORMS), EXPECTED)
    assert max(gpu.launched) <= batch_size
    assert gpu.get_audio_embedding_from_data([]).shape == (0, 512)


def test_a_gpu_has_its_next_batch_before_the_former_is_read() -> None:
    gpu = FakeGpu(batch_size=4)
    gpu.get_audio_embedding_from_data(WAVEFORMS)
    assert gpu.events == [
        "launch 1",
        "launch 2",
        "read 1",
        "launch 3",
        "read 2",
        "read 3",
    ]  # 12 with the reference signal


def test_a_gpu_whose_memory_runs_out_has_smaller_batches_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    gpu = FakeGpu(batch_size=8, memory_windows=5)
    assert np.array_equal(gpu.get_audio_embedding_from_data(WAVEFORMS), EXPECTED)
    assert gpu.launched == [4, 2, 2, 2, 2]  # 8 do not fit, nor does a second 4 beside the first
    assert "from now on 2 windows at a time" in caplog.text
    gpu.events.clear()
    assert np.array_equal(gpu.get_audio_embedding_from_data(WAVEFORMS), EXPECTED)
    assert "out of memory" not in gpu.events


def test_a_gpu_with_memory_for_one_window_reads_each_before_the_next() -> None:
    gpu = FakeGpu(batch_size=4, memory_windows=1)
    assert np.array_equal(gpu.get_audio_embedding_from_data(WAVEFORMS), EXPECTED)
    assert gpu.launched == [1] * (len(WAVEFORMS) + 1)


def test_a_gpu_without_memory_for_one_window_stops_the_run_and_blames_no_file() -> None:
    windows = [(waveform * WINDOW_STEPS).astype(np.int16) for waveform in WAVEFORMS]
    gpu = FakeGpu(batch_size=32, memory_windows=0)
    with pytest.raises(RunStopped, match=r"on 11 windows: OutOfMemoryError: CUDA out of memory.*No file is to"):
        embed_windows(gpu.get_audio_embedding_from_data, windows)
    assert gpu.events == ["out of memory"] * 6  # 32, 16, 8, 4, 2, 1


def test_f32_on_a_gpu_is_not_tf32() -> None:
    import torch

    backends: Any = torch.backends  # parts of it are made at run time
    backends.cuda.matmul.fp32_precision = backends.cudnn.conv.fp32_precision = "tf32"
    FakeGpu(batch_size=1)
    assert backends.cuda.matmul.fp32_precision == backends.cudnn.conv.fp32_precision == "ieee"


# -- the vectors of texts, as they are kept --------------------------------------------------------------------------


class TextModule:
    """Embeds texts; remembers which."""

    def __init__(self) -> None:
        self.loads = 0
        self.embedded: list[str] = []

    def load(self) -> TextModule:
        self.loads += 1
        return self

    def get_text_embedding(self, texts: Sequence[str]) -> Vector:
        self.embedded += texts
        return FakeClap().get_text_embedding(texts)


def text_vectors(module: TextModule, folder: Path) -> TextVectors:
    return TextVectors(folder / "texts", ModelCache(folder), module.load)


def test_a_text_is_embedded_once_and_in_the_next_run_not_at_all(tmp_path: Path) -> None:
    first, second = TextModule(), TextModule()
    texts = ["kick", "Baß 🥁", "kick"]
    expected = FakeClap().get_text_embedding(texts)
    assert np.array_equal(text_vectors(first, tmp_path).of(texts), expected)
    assert first.embedded == ["kick", "Baß 🥁"]
    assert np.array_equal(text_vectors(second, tmp_path).of(texts[::-1]), expected[::-1])
    assert second.loads == 0


def test_no_text_needs_no_model(tmp_path: Path) -> None:
    module = TextModule()
    vectors = text_vectors(module, tmp_path).of([])
    assert (vectors.shape, vectors.dtype.name, module.loads) == ((0, 512), "float32", 0)


def test_texts_that_come_one_by_one_load_the_model_once(tmp_path: Path) -> None:
    module = TextModule()
    texts = text_vectors(module, tmp_path)
    for text in ("kick", "snare", "kick"):
        assert texts.of([text]).shape == (1, 512)
    assert (module.loads, module.embedded) == (1, ["kick", "snare"])


@pytest.mark.parametrize(
    "spoil", [cut, flip_a_byte, lambda file: file.write_bytes(b"")], ids=["cut", "flipped", "empty"]
)
def test_a_kept_text_vector_that_is_damaged_is_computed_again(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    text_vectors(TextModule(), tmp_path).of(["kick"])
    (file,) = (tmp_path / "texts").iterdir()
    spoil(file)
    module = TextModule()
    assert np.array_equal(text_vectors(module, tmp_path).of(["kick"]), FakeClap().get_text_embedding(["kick"]))
    text_vectors(module, tmp_path).of(["kick"])
    assert module.embedded == ["kick"]


def test_text_vectors_that_cannot_be_kept_cost_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "texts").touch()
    assert text_vectors(TextModule(), tmp_path).of(["kick"]).shape == (1, 512)
    assert "the model cache cannot be written" in caplog.text
