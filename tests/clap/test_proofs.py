"""No vector of an engine is stored that its streams have not proved by the reference signal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from fake_clap import STOCK_OF_STREAMS, Streams, TurnsWrong, fake_vector, good_stream, wrong_stream
from patching import replace_name
from stem_dataset.audio.windowing import WINDOW_STEPS, waveform_of
from stem_dataset.clap.audio_tower import TOWER_PARTS, full_window
from stem_dataset.clap.checkpoints import ModelCache, identify_weights
from stem_dataset.clap.engine import UnprovedVectors, check_engine, processor_name, reference_window
from stem_dataset.clap.openvino_engine import PROOF_SHARE, OpenVinoClap, check_bf16, import_openvino, stream_count
from stem_dataset.clap.session import ProvedClap, build_engine
from stem_dataset.config import Config
from stem_dataset.datatypes import FoundFile, ProcessedFile
from stem_dataset.errors import RunStopped
from stem_dataset.workers.dask_worker import embed_here
from stem_dataset.workers.tasks import TaskReport
from workplace import Workplace

Vector = npt.NDArray[np.float32]
WINDOWS = list(np.random.default_rng(3).normal(size=(20, 4_800)).astype(np.float32) / 9)
RIGHT = np.stack([fake_vector(full_window(window)) for window in WINDOWS])


def proved(*engines: Streams) -> ProvedClap:
    """The program's guard over engines that are built one after the other."""
    left = iter(engines)

    def build() -> Streams:
        engine = next(left)
        check_engine(engine, STOCK_OF_STREAMS)
        return engine

    return ProvedClap(build)


def test_a_stream_that_is_wrong_from_its_start_computes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    clap = proved(Streams(good_stream, wrong_stream), Streams(good_stream, good_stream))
    assert np.array_equal(clap.get_audio_embedding_from_data(WINDOWS), RIGHT)
    assert "stream 2 of 2 has a cosine of" in caplog.text
    assert "The engine is built again" in caplog.text


@pytest.mark.parametrize("after", [2, 5])
def test_a_batch_during_which_a_stream_becomes_wrong_is_computed_again(
    after: int, caplog: pytest.LogCaptureFixture
) -> None:
    turning = TurnsWrong(after)  # the check at the start is its first window
    clap = proved(Streams(turning), Streams(good_stream, good_stream))
    assert caplog.text == ""
    assert np.array_equal(clap.get_audio_embedding_from_data(WINDOWS), RIGHT)
    assert turning.left < 0
    assert "the batch is computed again" in caplog.text


def test_a_second_failure_names_processor_version_and_layer() -> None:
    with pytest.raises(RunStopped) as stopped:
        proved(Streams(wrong_stream), Streams(good_stream, wrong_stream))
    text = str(stopped.value)
    assert processor_name() in text
    assert '"openvino": "' in text
    assert "the first part of the model that differs is the transformer, also after the engine was built again" in text
    assert text.endswith(
        "No file was touched. Without openvino (`pip uninstall openvino`) CLAP runs on torch, which is slower"
    )


def test_a_second_failure_in_a_later_batch_ends_the_run_too() -> None:
    clap = proved(Streams(TurnsWrong(1)), Streams(TurnsWrong(30)))
    assert np.array_equal(clap.get_audio_embedding_from_data(WINDOWS), RIGHT)
    with pytest.raises(RunStopped, match="Nothing of this batch was written, and what was committed stays"):
        clap.get_audio_embedding_from_data(WINDOWS)


@pytest.mark.parametrize("spoiled", [0, 1])
def test_an_engine_whose_first_or_second_stream_is_off_is_found_with_any_number_of_windows(spoiled: int) -> None:
    streams: list[Callable[[Vector], Vector]] = [good_stream, good_stream]
    engine = Streams(*streams)
    check_engine(engine, STOCK_OF_STREAMS)
    streams[spoiled] = wrong_stream
    engine.streams = streams
    for count in (0, 1, 20):
        with pytest.raises(UnprovedVectors, match=f"stream {spoiled + 1} of 2"):
            engine.get_audio_embedding_from_data(WINDOWS[:count])


def test_a_window_that_is_refused_leaves_the_streams_at_rest_and_usable() -> None:
    engine = Streams(good_stream, good_stream)
    check_engine(engine, STOCK_OF_STREAMS)
    with pytest.raises(ValueError, match="a window of 0 samples"):
        engine.get_audio_embedding_from_data([*WINDOWS[:5], np.zeros(0, np.float32), *WINDOWS[5:]])
    assert np.array_equal(engine.get_audio_embedding_from_data(WINDOWS), RIGHT)


# -- a run -----------------------------------------------------------------------------------------------------------


def tones(place: Workplace, count: int) -> None:
    for number in range(count):
        y = 0.5 * np.sin(2 * np.pi * (200 + 90 * number) * np.arange(9_600) / 48_000)
        soundfile.write(place.input / f"{number:02d}.wav", y, 48_000, "PCM_24")


def vectors_of(place: Workplace) -> dict[str, bytes]:
    return {Path(row["original_file"]).name: row["clap_embedding"] for row in place.rows()}


def good_engines() -> Iterator[Streams]:
    while True:
        yield Streams(good_stream, good_stream)


def test_a_run_whose_engine_becomes_wrong_has_the_rows_of_one_that_stays_right(tmp_path: Path) -> None:
    right, mended = Workplace(tmp_path / "right"), Workplace(tmp_path / "mended")
    for place in (right, mended):
        place.input.mkdir(parents=True)
        tones(place, 12)
    right.run(proved(Streams(good_stream)), batch_windows=4)
    # Its check, four windows and their proof: from the second batch on every vector of it is another's.
    summary = mended.run(proved(Streams(TurnsWrong(6)), Streams(good_stream, good_stream)), batch_windows=4)
    assert summary.inserted == 12
    assert vectors_of(mended) == vectors_of(right)
    assert "the batch is computed again" in mended.log_file.read_text(encoding="utf-8")


def test_a_run_whose_engine_stays_wrong_stops_with_the_rows_that_were_proved(workplace: Workplace) -> None:
    tones(workplace, 12)
    clap = proved(Streams(TurnsWrong(6)), Streams(TurnsWrong(1)))
    with pytest.raises(RunStopped, match="also after the engine was built again") as stopped:
        workplace.run(clap, batch_windows=4)
    assert stopped.value.exit_code == 4
    stored = vectors_of(workplace)
    assert len(stored) == 4
    assert workplace.quarantined() == []
    assert len(list(workplace.input.iterdir())) == 12
    for name, vector in stored.items():
        samples = soundfile.read(workplace.input / name, dtype="float32")[0]
        steps = (np.clip(samples, -1, 1) * np.float32(32_767)).astype(np.int16)
        right = fake_vector(full_window(waveform_of(steps)))
        assert float(np.frombuffer(vector, "<f4") @ right) >= 0.999_999
    assert workplace.run(proved(Streams(good_stream))).inserted == 8


def test_re_embedding_replaces_nothing_by_unproved_vectors(workplace: Workplace, tmp_path: Path) -> None:
    tones(workplace, 6)
    workplace.run(proved(Streams(good_stream)))
    before = vectors_of(workplace)
    clap = proved(Streams(TurnsWrong(1)), Streams(TurnsWrong(1)))
    with pytest.raises(RunStopped, match="Nothing of this batch was written"):
        workplace.re_embed(clap, precision="bf16")
    assert vectors_of(workplace) == before
    assert {row["embedding_model"].split("/")[1] for row in workplace.rows()} == {"f32"}


@pytest.mark.parametrize("second", [good_stream, wrong_stream], ids=["mended", "wrong again"])
def test_a_dask_worker_sends_proved_vectors_alone(
    second: Callable[[Vector], Vector], monkeypatch: pytest.MonkeyPatch
) -> None:
    clap = proved(Streams(TurnsWrong(2)), Streams(second, good_stream))
    steps = [(np.clip(window, -1, 1) * np.float32(WINDOW_STEPS)).astype(np.int16) for window in WINDOWS]
    replace_name(monkeypatch, "engine_here", lambda run_context: clap)
    run_context: Any = SimpleNamespace(config=Config(batch_windows=96))
    metadata: Any = None
    files = [FoundFile(f"{number}.wav", 1, 1) for number in range(len(steps))]
    reports = [
        TaskReport(found, processed=ProcessedFile(found, metadata, [window]))
        for found, window in zip(files, steps, strict=True)
    ]
    if second is wrong_stream:
        with pytest.raises(RunStopped, match="also after the engine was built again"):
            embed_here(reports, run_context)
        assert all(report.processed is not None and report.processed.vector is None for report in reports)
        return
    embed_here(reports, run_context)
    for report, window in zip(reports, steps, strict=True):
        assert report.processed is not None
        assert report.processed.vector is not None
        right = fake_vector(full_window(waveform_of(window)))
        assert float(np.frombuffer(report.processed.vector, "<f4") @ right) >= 0.999_999


# -- the real engines ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openvino(stand_in: Path, model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenVinoClap:
    """OpenVINO on the stand-in's tower, which is kept already: torch stays out of this process."""
    cache = Path(shutil.copytree(model_cache, tmp_path_factory.mktemp("proofs") / "cache"))
    config = Config(checkpoint=str(stand_in / "stand-in.pt"), model_cache=cache, device="cpu")
    weights = identify_weights(config.checkpoint, ModelCache(cache))
    engine = build_engine(weights, config)
    assert isinstance(engine, OpenVinoClap)
    return engine


class Spoiled:
    """A stream of OpenVINO that computes another function from one of its parts on."""

    def __init__(self, stream: Any, part: str) -> None:
        self.stream, self.part = stream, part

    def outputs(self, window: Vector) -> Iterator[Vector]:
        wrong = False
        for name, output in zip(TOWER_PARTS, self.stream.outputs(window), strict=True):
            wrong = wrong or name == self.part
            yield output[..., ::-1] if wrong else output

    def __call__(self, window: Vector) -> Vector:
        *_, vectors = self.outputs(window)
        return np.array(vectors[0])


@pytest.mark.parametrize("part", TOWER_PARTS)
def test_the_part_of_an_openvino_stream_that_is_wrong_is_named(openvino: OpenVinoClap, part: str) -> None:
    good = openvino.streams
    try:
        openvino.streams = [*good, Spoiled(good[0], part)]
        with pytest.raises(UnprovedVectors, match=f"that differs is the {part}"):
            check_engine(openvino, openvino.stock)
    finally:
        openvino.streams = good


def test_a_part_that_is_right_when_computed_again_is_not_named(openvino: OpenVinoClap) -> None:
    assert openvino.first_wrong_part(0) is None


def test_each_stream_of_openvino_has_models_of_its_own(openvino: OpenVinoClap) -> None:
    requests = [request for stream in openvino.streams for request in stream.requests]  # type: ignore[attr-defined]
    assert len(requests) == len(openvino.streams) * len(TOWER_PARTS)
    for request in requests:
        compiled = request.get_compiled_model()
        assert compiled.get_property("NUM_STREAMS") == 1
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


@pytest.mark.parametrize(
    ("threads", "batch_windows", "streams"), [(1, 96, 1), (2, 96, 2), (16, 96, 2), (16, 512, 15), (4, 1, 1), (4, 40, 1)]
)
def test_proofs_of_all_streams_take_at_most_their_share_of_a_batch(
    threads: int, batch_windows: int, streams: int
) -> None:
    assert stream_count(threads, batch_windows) == streams
    assert streams == 1 or streams / batch_windows <= PROOF_SHARE


def test_a_gpu_proves_itself_with_each_list() -> None:
    from engines import FakeGpu

    gpu = FakeGpu(batch_size=8)
    vectors, proofs = gpu.embed(WINDOWS)
    assert vectors.shape == (20, 512)
    assert np.array_equal(proofs, [fake_vector(reference_window())])
    gpu.stock = gpu.stock[::-1]
    gpu.first_wrong_part = lambda stream: "transformer"  # type: ignore[method-assign]
    with pytest.raises(UnprovedVectors, match=r"torch/cuda .* Use --device cpu"):
        gpu.get_audio_embedding_from_data(WINDOWS)


@pytest.mark.parametrize(
    ("engine", "precision", "way_out"),
    [
        ("openvino/cpu", "bf16", "Use --precision f32"),
        ("openvino/cpu", "f32", "pip uninstall openvino"),
        ("torch/cpu", "f32", "pip install -r requirements.txt"),
        ("torch/cuda", "f32", "Use --device cpu"),
        ("torch/cuda", "bf16", "Use --precision f32"),
    ],
)
def test_a_refused_engine_names_a_way_out_that_this_machine_has(engine: str, precision: str, way_out: str) -> None:
    refused = Streams(wrong_stream, precision=precision)
    refused.engine = engine
    with pytest.raises(UnprovedVectors, match=way_out):
        check_engine(refused, STOCK_OF_STREAMS)


def test_bf16_is_recommended_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    text = "--precision bf16 is about twice as fast on this processor; its vectors are not comparable with f32 vectors"
    for capabilities, precision, is_said in ((["FP32", "BF16"], "f32", True), (["FP32"], "f32", False)):
        core = SimpleNamespace(get_property=lambda device, name, found=tuple(capabilities): found)
        monkeypatch.setattr(import_openvino(), "Core", lambda core=core: core)
        caplog.clear()
        check_bf16(precision)
        assert (text in caplog.text) is is_said
