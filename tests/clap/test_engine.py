"""What every engine does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import WAVEFORMS, FakeGpu, Vector, cut, flip_a_byte
from fake_clap import FakeClap, Streams, fake_vector
from stem_dataset.clap.checkpoints import ModelCache
from stem_dataset.clap.engine import TextVectors, UnprovedVectors, check_engine
from stem_dataset.output_folders import README_NAME


def test_a_tower_that_is_a_little_off_is_not_laion_claps() -> None:
    reference = np.zeros(512)
    reference[0] = 1
    off = np.zeros(512, np.float32)
    off[:2] = np.cos(0.002), np.sin(0.002)  # 0.999998
    with pytest.raises(UnprovedVectors, match=r"cosine of 0\.9999980 .* at least 0\.999999 is required in f32"):
        check_engine(Streams(lambda window: off), reference)
    check_engine(Streams(lambda window: off, precision="bf16"), reference)
    off[:] = np.nan
    with pytest.raises(UnprovedVectors, match="cosine of nan"):
        check_engine(Streams(lambda window: off), reference)


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
    return TextVectors(folder / "texts.npz", ModelCache(folder), module.load)


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


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:30])


def write_other_numbers(file: Path) -> None:
    np.save(file.with_suffix(".npy"), np.zeros(3))
    file.with_suffix(".npy").replace(file)


@pytest.mark.parametrize("spoil", [cut, flip_a_byte, shorten, lambda file: file.write_bytes(b""), write_other_numbers])
def test_a_damaged_file_of_text_vectors_is_ignored_and_replaced(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    text_vectors(TextModule(), tmp_path).of(["kick", "snare"])
    (file,) = tmp_path.glob("*.npz")
    spoil(file)
    module = TextModule()
    expected = FakeClap().get_text_embedding(["kick", "snare"])
    assert np.array_equal(text_vectors(module, tmp_path).of(["kick", "snare"]), expected)
    text_vectors(module, tmp_path).of(["kick", "snare"])
    assert module.embedded == ["kick", "snare"]


def test_no_flipped_byte_changes_a_text_vector(tmp_path: Path) -> None:
    expected = FakeClap().get_text_embedding(["kick"])
    text_vectors(TextModule(), tmp_path).of(["kick"])
    (file,) = tmp_path.glob("*.npz")
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        assert np.array_equal(text_vectors(TextModule(), tmp_path).of(["kick"]), expected)


def test_texts_that_two_processes_embed_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    class Meanwhile(TextModule):
        def get_text_embedding(self, texts: Sequence[str]) -> Vector:
            text_vectors(TextModule(), tmp_path).of(["snare"])
            return super().get_text_embedding(texts)

    text_vectors(Meanwhile(), tmp_path).of(["kick"])
    module = TextModule()
    expected = FakeClap().get_text_embedding(["kick", "snare"])
    assert np.array_equal(text_vectors(module, tmp_path).of(["kick", "snare"]), expected)
    assert module.embedded == []
    assert [path.name for path in tmp_path.iterdir() if path.name != README_NAME] == ["texts.npz"]


def test_texts_that_several_threads_ask_for_are_embedded_once_and_one_at_a_time(tmp_path: Path) -> None:
    class Slow(TextModule):
        running = 0

        def get_text_embedding(self, texts: Sequence[str]) -> Vector:
            self.running += 1
            time.sleep(0.01)
            assert self.running == 1
            self.running -= 1
            return super().get_text_embedding(texts)

    module = Slow()
    texts = text_vectors(module, tmp_path)
    asked = ["kick", "snare", "kick", "hat"] * 2
    with ThreadPoolExecutor(len(asked)) as threads:
        vectors = np.concatenate(list(threads.map(lambda text: texts.of([text]), asked)))
    assert np.array_equal(vectors, FakeClap().get_text_embedding(asked))
    assert (module.loads, sorted(module.embedded)) == (1, ["hat", "kick", "snare"])


def test_text_vectors_that_cannot_be_kept_cost_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "texts.npz").mkdir()
    assert text_vectors(TextModule(), tmp_path).of(["kick"]).shape == (1, 512)
    assert "the model cache cannot be written" in caplog.text
