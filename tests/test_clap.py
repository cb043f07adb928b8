"""What needs the real laion_clap, with the stand-in for its weights: the main job as a user runs it, and its vectors.

Loading CLAP takes ten seconds and over a gigabyte: one process of pytest-xdist has all of this module, and loads once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import prepare_dataset_sql as product
from conftest import Watch, Workplace, run_program
from fake_clap import is_reference

pytestmark = [
    pytest.mark.xdist_group("clap"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),  # laion_clap calls it as it was called once
]

VALID, BROKEN = 71, 3
WINDOWS = 73  # 70 files of one, and the 25 s piece of three
PIECE = "Full Pieces/piece_96bpm_Am.flac"
Vector = npt.NDArray[np.float32]


# -- the model -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub_cache(stand_in: Path) -> Iterator[None]:
    """Let this process's client, which may be imported already, find the stand-in's text model, and nothing else."""
    import huggingface_hub.constants as constants

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HF_HUB_CACHE", str(stand_in / "hub")), ("HF_HUB_OFFLINE", True)):
            patch.setattr(constants, name, value)
            patch.setenv(name, str(int(value)) if isinstance(value, bool) else value)
        patch.setenv("HF_HUB_DISABLE_XET", "1")  # load_clap sets it; this is to have it undone
        yield


def config(stand_in: Path, model_cache: Path, **settings: Any) -> product.Config:
    return product.Config(checkpoint=str(stand_in / "stand-in.pt"), model_cache=model_cache, device="cpu", **settings)


def load(config: product.Config) -> product.ClapModel:
    """Load CLAP as the program does."""
    cache = product.ModelCache(config.model_cache)
    return product.load_clap(product.identify_weights(config.checkpoint, cache), config)


@pytest.fixture(scope="module")
def clap(stand_in: Path, model_cache: Path, hub_cache: None) -> product.ClapModel:
    """The stand-in, loaded as the program does: by OpenVINO, from the model cache."""
    return load(config(stand_in, model_cache))


@pytest.fixture(scope="module")
def stock(hub_cache: None, stand_in: Path) -> Any:
    """The same weights, loaded by stock laion_clap: the oracle."""
    import laion_clap
    import torch

    torch.set_num_threads(1)  # threads on cores that others use wait for each other: 1.8 s a window instead of 0.3

    module = laion_clap.CLAP_Module(enable_fusion=False, device="cpu", amodel="HTSAT-tiny")
    with contextlib.redirect_stdout(io.StringIO()):
        module.load_ckpt(str(stand_in / "stand-in.pt"), verbose=False)
    return module


def stock_vector(stock: Any, samples: Vector) -> Vector:
    import torch

    with torch.no_grad():
        vector: Vector = stock.get_audio_embedding_from_data([samples])[0]
    return vector


def cosines(vectors: npt.ArrayLike, others: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The cosine of each row with the other's, in double precision."""
    a, b = np.asarray(vectors, np.float64), np.asarray(others, np.float64)
    cosine: npt.NDArray[np.float64] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosine


class CountingClap:
    """The real model, which remembers the size of each call but those with the reference signal."""

    def __init__(self, clap: product.ClapModel) -> None:
        self.clap = clap
        self.call_sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.clap, name)

    def get_audio_embedding_from_data(self, x: Sequence[Vector]) -> Vector:
        if not is_reference(x):
            self.call_sizes.append(len(x))
        return self.clap.get_audio_embedding_from_data(x)


def vector(row: dict[str, Any]) -> Vector:
    return np.frombuffer(row["clap_embedding"], "<f4")


# -- the main job, as a user runs it ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """`python prepare_dataset_sql.py` on the 74 fixtures, with a model cache that an earlier run has filled."""

    place: Workplace
    result: subprocess.CompletedProcess[str]
    watch: Watch

    @property
    def log_text(self) -> str:
        return self.place.log_file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(library: Path, stand_in: Path, model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    place = Workplace(tmp_path_factory.mktemp("finished_with_clap"))
    shutil.copytree(library / "stems", place.input)
    flags = [*place.flags(), "--checkpoint", str(stand_in / "stand-in.pt"), "--device", "cpu"]
    watch = Watch(place.folder / "watch.txt")
    online = {"HF_HUB_OFFLINE": "0", **watch.environment}
    result = run_program(*flags, "--model-cache", str(model_cache), stand_in=stand_in, **online)
    return Finished(place, result, watch)


def test_71_rows_and_3_quarantined_files_end_with_0(finished: Finished) -> None:
    assert finished.result.returncode == 0, finished.result.stderr
    assert len(finished.place.rows()) == VALID
    quarantined = finished.place.quarantined()
    assert len(quarantined) == BROKEN
    for name in quarantined:
        entry = json.loads((finished.place.quarantine / f"{name}.json").read_text(encoding="utf-8"))
        assert not Path(entry["original_file"]).exists()
    assert sum(" ERROR " in line for line in finished.log_text.splitlines()) == BROKEN


def test_all_files_are_embedded_in_one_call(finished: Finished) -> None:
    calls = re.findall(r"embedding (\d+) windows of (\d+) files in one call", finished.log_text)
    assert calls == [(str(WINDOWS), str(VALID))]


def test_nothing_that_laion_clap_prints_reaches_the_user(finished: Finished) -> None:
    assert finished.result.stdout == ""
    assert "Loading weights" not in finished.result.stderr  # transformers' bar
    assert "Warning" not in finished.result.stderr


def test_a_run_with_the_stand_in_says_that_its_vectors_mean_nothing(finished: Finished, stand_in: Path) -> None:
    warnings = [line for line in finished.result.stderr.splitlines() if line.startswith("warning: ")]
    assert any("stand-in" in line and "its vectors mean nothing" in line for line in warnings)
    sha256 = hashlib.sha256((stand_in / "stand-in.pt").read_bytes()).hexdigest()
    texts = {row["embedding_model"] for row in finished.place.rows()}
    assert texts == {f"stand-in@{sha256[:12]}/f32/10s-max8"}


def test_a_warm_run_opens_no_connection_in_any_of_its_processes(finished: Finished) -> None:
    assert finished.result.returncode == 0
    assert finished.watch.noted("network") == []


def test_a_warm_run_imports_neither_torch_nor_what_stands_on_it(finished: Finished) -> None:
    assert finished.result.returncode == 0
    assert finished.watch.noted("import") == []


# -- the vectors -----------------------------------------------------------------------------------------------------


def test_every_vector_is_finite_and_of_unit_length_that_of_silence_too(finished: Finished) -> None:
    rows = finished.place.rows()
    assert "silence_1s.wav" in {Path(row["original_file"]).name for row in rows}
    vectors = np.array([vector(row) for row in rows])
    assert vectors.shape == (VALID, product.EMBEDDING_SIZE)
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-6)


def test_every_stored_vector_is_stock_laion_claps_for_that_row_and_no_other(finished: Finished, stock: Any) -> None:
    rows = finished.place.rows()
    samples = [soundfile.read(row["path"], dtype="float32")[0] for row in rows]
    pairs = [(vector(row), stock_vector(stock, y)) for row, y in zip(rows, samples, strict=True) if len(y) <= 480_000]
    stored, expected = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    assert len(stored) == VALID - 1
    assert cosines(stored, expected).min() >= 0.999_999
    distances = np.linalg.norm(expected[:, None] - stored[None], axis=2)
    for row, nearest in enumerate(distances.argmin(axis=1)):
        assert nearest == row or np.abs(stored[nearest] - stored[row]).max() <= 1e-4, rows[row]["original_file"]
    others = distances + np.eye(len(stored))
    assert (others.min(axis=1) > 1e-4).sum() >= VALID - 10  # a swap would show: hardly any two are alike


def test_a_long_file_has_the_normalised_mean_of_stock_laion_claps_vectors(finished: Finished, stock: Any) -> None:
    (row,) = (row for row in finished.place.rows() if row["original_file"].endswith(PIECE))
    samples = soundfile.read(row["path"], dtype="float32")[0]
    assert len(samples) == 1_200_000
    windows = [samples[start : start + 480_000] for start in (0, 360_000, 720_000)]
    mean = np.mean([stock_vector(stock, window) for window in windows], axis=0, dtype=np.float64)
    assert vector(row) == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


@pytest.mark.parametrize(("batch_windows", "workers", "sizes"), [(96, 1, [5]), (1, 3, [1, 1, 3])])
def test_batch_and_workers_do_not_change_a_vector(
    finished: Finished,
    clap: product.ClapModel,
    workplace: Workplace,
    library: Path,
    batch_windows: int,
    workers: int,
    sizes: list[int],
) -> None:
    stored = {Path(row["original_file"]).name: vector(row) for row in finished.place.rows()}
    for name in (PIECE, "Drums/Kicks/KICK_TIGHT.WAV", "Misc/silence_1s.wav"):
        shutil.copy(library / "stems" / name, workplace.input)
    counting = CountingClap(clap)
    workplace.run(counting, batch_windows=batch_windows, workers=workers)
    assert sorted(counting.call_sizes) == sizes
    rows = workplace.rows()
    assert len(rows) == 3
    for row in rows:
        assert np.abs(vector(row) - stored[Path(row["original_file"]).name]).max() <= 1e-6, row["original_file"]


# -- a checkpoint file is not trusted --------------------------------------------------------------------------------


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def torch_file(content: object, **options: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def old_torch_file(content: object) -> bytes:
    return torch_file(content, _use_new_zipfile_serialization=False)


def zeros(*shape: int) -> Any:
    import torch

    return torch.zeros(shape)


def load_refused(file: Path) -> str:
    """Load a checkpoint file, expecting `WeightsMissing`; return its text."""
    with pytest.raises(product.WeightsMissing) as caught:
        load(product.Config(checkpoint=str(file), model_cache=file.parent / "cache", device="cpu"))
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    return text


HOSTILE_FORMS: dict[str, Callable[[object], bytes]] = {
    "torch": torch_file,
    "torch's old format": old_torch_file,
    "pickle": functools.partial(pickle.dumps, protocol=2),
}


def hostile_file(folder: Path, form: str) -> Path:
    """Write a checkpoint that makes `folder`/canary when its code is run."""
    content = {"epoch": 0, "name": "hostile", "state_dict": {"module.a": Hostile(folder / "canary")}}
    (folder / "hostile.pt").write_bytes(HOSTILE_FORMS[form](content))
    return folder / "hostile.pt"


@pytest.mark.parametrize("form", HOSTILE_FORMS)
def test_a_checkpoint_that_holds_code_is_refused_and_its_code_not_run(
    tmp_path: Path, hub_cache: None, form: str
) -> None:
    import torch

    file, canary = hostile_file(tmp_path, form), tmp_path / "canary"
    assert "no CLAP checkpoint that can be loaded safely" in load_refused(file)
    assert not canary.exists()
    with contextlib.suppress(Exception):
        torch.load(file, weights_only=False)
    assert canary.exists(), "the file is harmless: this test shows nothing"


def test_the_refusal_says_what_was_found_and_does_not_advise_to_run_the_code(tmp_path: Path, hub_cache: None) -> None:
    text = load_refused(hostile_file(tmp_path, "torch"))
    assert "mkdir" in text
    assert "will likely succeed" not in text  # torch's advice: load it with weights_only=False


def test_a_run_with_a_hostile_checkpoint_ends_with_3_and_touches_no_file(
    workplace: Workplace,
    library: Path,
    hub_cache: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(library / "stems" / "broken", workplace.input, dirs_exist_ok=True)
    shutil.copy(library / "stems" / "Drums/Kicks/KICK_TIGHT.WAV", workplace.input)
    before = {path: path.read_bytes() for path in workplace.input.iterdir()}
    hostile_file(workplace.folder, "torch")
    monkeypatch.chdir(workplace.folder)
    assert product.main([*workplace.flags(), "--checkpoint", "hostile.pt"]) == 3
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert "error: hostile.pt: no CLAP checkpoint that can be loaded safely" in stderr
    assert not (workplace.folder / "canary").exists()
    assert {path: path.read_bytes() for path in workplace.input.iterdir()} == before
    assert workplace.rows() == []
    assert workplace.quarantined() == []


# How a file that is no CLAP checkpoint is made, and a word that its refusal must have.
NO_CHECKPOINTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "loaded safely"),
    "text": (lambda: b"this is no checkpoint\n", "loaded safely"),
    "git-lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "loaded safely"),
    "truncated": (lambda: torch_file({"state_dict": {"a": zeros(999)}})[:-99], "truncated: ends after"),
    "truncated, in torch's old format": (lambda: old_torch_file({"state_dict": {"a": zeros(9)}})[:-9], "loaded safely"),
    "truncated to its head, in torch's old format": (lambda: old_torch_file({"state_dict": {}})[:52], "loaded safely"),
    "a damaged string": (lambda: b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "loaded safely"),
    "a tensor": (lambda: torch_file(zeros(9)), "loaded safely"),
    "a list": (lambda: torch_file([1, 2]), "loaded safely"),
    "without state_dict": (lambda: torch_file({"a": zeros(9)}), "state_dict"),
    "a state_dict of text": (lambda: torch_file({"state_dict": "text"}), "loaded safely"),
    "numbers for tensors": (lambda: torch_file({"state_dict": {product.PATCH_EMBEDDING: 5}}), "HTSAT-tiny"),
    "without audio tower": (lambda: torch_file({"state_dict": {"a": zeros(9)}}), "HTSAT-tiny, HTSAT-base"),
    "another architecture": (
        lambda: torch_file({"state_dict": {product.PATCH_EMBEDDING: zeros(64, 1, 4, 4)}}),
        "HTSAT-tiny, HTSAT-base",
    ),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # torch, of a tensor asked for its "state_dict"
def test_a_file_that_is_no_clap_checkpoint_is_refused_and_the_reason_told(
    tmp_path: Path, hub_cache: None, kind: str
) -> None:
    make, word = NO_CHECKPOINTS[kind]
    (tmp_path / "mine.pt").write_bytes(make())
    assert word in load_refused(tmp_path / "mine.pt")


def test_a_fusion_checkpoint_is_told_as_a_wrong_pairing(tmp_path: Path, hub_cache: None) -> None:
    state = {product.PATCH_EMBEDDING: zeros(96, 1, 4, 4), "audio_branch.patch_embed.fusion_model.a": zeros(9)}
    (tmp_path / "fusion.pt").write_bytes(torch_file({"state_dict": state}))
    assert "wrong pairing: a checkpoint for enable_fusion=True" in load_refused(tmp_path / "fusion.pt")


def test_a_checkpoint_that_does_not_fit_is_refused_in_a_few_lines(tmp_path: Path, hub_cache: None) -> None:
    state = {product.PATCH_EMBEDDING: zeros(96, 1, 4, 4), "audio_branch.patch_embed.a": zeros(9)}
    (tmp_path / "other.pt").write_bytes(torch_file({"state_dict": state}))
    text = load_refused(tmp_path / "other.pt")
    assert "does not fit HTSAT-tiny" in text
    assert len(text) < 1000  # torch lists every missing name: 12 kB
