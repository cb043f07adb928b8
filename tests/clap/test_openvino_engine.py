"""The compiled tower and its engine."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import prepare_dataset_sql as product
from engines import WAVEFORMS, FakeGpu, cut
from patching import replace_name
from stem_dataset.audio.windowing import WINDOW_SAMPLES, WINDOW_STEPS
from stem_dataset.clap.audio_tower import TOWER_PARTS
from stem_dataset.clap.checkpoints import Weights
from stem_dataset.clap.embed import embed_windows
from stem_dataset.clap.openvino_engine import (
    TOWER_CARD,
    TOWER_ERRORS,
    TOWER_RECIPE,
    import_openvino,
    keep_tower,
    read_tower,
    tower_key,
)
from stem_dataset.errors import RunStopped
from stem_dataset.files import sha256_of_path
from vectors import assert_same_vectors
from workplace import Watch, Workplace, run_program

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
    assert is_readable(folder)
    return folder


def is_readable(folder: Path) -> bool:
    """Whether the tower in `folder` can be read, and is of `WEIGHTS` and of the versions installed."""
    try:
        read_tower(folder, WEIGHTS)
    except TOWER_ERRORS:
        return False
    return True


def put_a_folder_for(file: Path) -> None:
    file.unlink()
    file.mkdir()


def change_card(folder: Path, **changes: Any) -> None:
    card_file = folder / TOWER_CARD
    card = json.loads(card_file.read_text(encoding="utf-8"))
    card_file.write_text(json.dumps({**card, **changes}), encoding="utf-8")


def change_key(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_card(folder, key={**tower_key(WEIGHTS), **changes})


SPOIL_TOWER: dict[str, Callable[[Path], object]] = {
    "no folder": shutil.rmtree,
    "no network": lambda folder: (folder / "transformer.xml").unlink(),
    "no numbers": lambda folder: (folder / "transformer.bin").unlink(),
    "no card": lambda folder: (folder / "tower.json").unlink(),
    "network cut off": lambda folder: os.truncate(folder / "transformer.xml", 200),
    "numbers cut off": lambda folder: cut(folder / "transformer.bin"),
    "card cut off": lambda folder: cut(folder / "tower.json"),
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
def test_a_tower_that_is_cut_off_or_for_something_else_is_not_read(tower: Path, way: str) -> None:
    SPOIL_TOWER[way](tower)
    assert not is_readable(tower)


def test_a_tower_of_ones_own_checkpoint_has_the_architecture_that_its_card_says(tower: Path) -> None:
    change_card(tower, architecture="HTSAT-base")
    _, card = read_tower(tower, dataclasses.replace(WEIGHTS, architecture=None))
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
        assert not is_readable(folder) or contents(folder) == whole
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
    assert not is_readable(folder)
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
    assert not is_readable(tmp_path / "0123456789ab" / "openvino-1")


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
    """A run with a tower that can be read, and of which a part computes something else."""

    place: Workplace
    model_cache: Path
    result: subprocess.CompletedProcess[str]
    watch: Watch


@pytest.fixture(scope="module")
def rebuilt(stand_in: Path, model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Rebuilt:
    place = Workplace(tmp_path_factory.mktemp("rebuilt"))
    cache = copy_of(model_cache, place.folder / "model_cache")
    shutil.copytree(cache / "first_run" / "stems", place.input)
    numbers = tower_in(cache) / "projection.bin"
    content = numbers.read_bytes()
    replace(numbers, content[: len(content) // 2] + bytes(1_000) + content[len(content) // 2 + 1_000 :])
    watch = Watch(place.folder / "watch.txt")
    # Online, and at home, where openvino's telemetry would find that nobody has forbidden it.
    environment = {"HF_HUB_OFFLINE": "0", "HOME": str(place.folder), **watch.environment}
    flags = [*place.flags(), *clap_flags(stand_in, cache)]
    return Rebuilt(place, cache, run_program(*flags, stand_in=stand_in, **environment), watch)


def test_a_run_with_a_damaged_tower_says_so_and_builds_it_again(rebuilt: Rebuilt, model_cache: Path) -> None:
    assert rebuilt.result.returncode == 0, rebuilt.result.stderr
    folder = tower_in(rebuilt.model_cache)
    text = f"warning: {folder}: the compiled tower cannot be used, so it is built again: openvino/cpu"
    assert text in rebuilt.result.stderr
    assert "the first part of the model that differs is the projection" in rebuilt.result.stderr
    # The names in a network change from build to build; the numbers are those of the checkpoint.
    assert (folder / "projection.bin").read_bytes() == (tower_in(model_cache) / "projection.bin").read_bytes()


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
    """Run the program in this process, on one stem, which must stay as it is."""
    stem = place.input / "kick.wav"
    soundfile.write(stem, np.sin(np.arange(9_600) / 30), 48_000)
    before = stem.read_bytes()
    exit_code = product.main([*place.flags(), "--workers", "1", *flags])
    assert stem.read_bytes() == before
    assert place.quarantined() == []
    return exit_code


@dataclass(frozen=True)
class Towers:
    """The tower of the first run, and the same with the reference vector of another model."""

    good: tuple[list[Any], dict[str, Any]]
    foreign: tuple[list[Any], dict[str, Any]]


@pytest.fixture
def towers(stand_in: Path, model_cache: Path) -> Towers:
    weights = Weights("stand-in", sha256_of_path(stand_in / "stand-in.pt"), None, None)
    parts, card = read_tower(tower_in(model_cache), weights)
    turned = [-number for number in card["reference_vector"]]
    return Towers((parts, card), (parts, {**card, "reference_vector": turned}))


def use_builds(monkeypatch: pytest.MonkeyPatch, *built: tuple[list[Any], dict[str, Any]]) -> None:
    """Let the program build these towers, one after the other; torch takes half a minute for each."""
    left = iter(built)
    replace_name(monkeypatch, "load_module", lambda *_: None)
    replace_name(monkeypatch, "convert_tower", lambda *_: next(left))


def test_a_kept_tower_with_other_vectors_than_laion_claps_is_built_again_and_the_run_goes_on(
    workplace: Workplace,
    stand_in: Path,
    model_cache: Path,
    towers: Towers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = copy_of(model_cache, workplace.folder / "model_cache")
    card_file = tower_in(cache) / TOWER_CARD
    replace(card_file, json.dumps(towers.foreign[1]).encode())
    use_builds(monkeypatch, towers.good)
    assert run_main(workplace, *clap_flags(stand_in, cache)) == 0
    assert len(workplace.rows()) == 1
    stderr = capsys.readouterr().err
    assert "the compiled tower cannot be used, so it is built again: openvino/cpu" in stderr
    assert "has a cosine of -1.0000000 for the reference signal" in stderr
    assert stderr.count("is an untrained stand-in") == 1
    assert json.loads(card_file.read_text(encoding="utf-8")) == towers.good[1]


def test_a_new_tower_with_other_vectors_than_laion_claps_stops_the_run_before_any_file_is_touched(
    workplace: Workplace,
    stand_in: Path,
    towers: Towers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = workplace.folder / "model_cache"
    use_builds(monkeypatch, towers.foreign, towers.foreign)
    assert run_main(workplace, *clap_flags(stand_in, cache)) == 4
    assert workplace.rows() == []
    assert list(cache.glob("*/openvino-*")) == []
    stderr = capsys.readouterr().err
    assert "error: openvino/cpu" in stderr
    assert f'"openvino": "{importlib.metadata.version("openvino")}"' in stderr
    assert "has a cosine of -1.0000000 for the reference signal" in stderr
    assert "also after the engine was built again" in stderr
    assert "No file was touched" in stderr
    assert "Traceback" not in stderr


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
    assert workplace.rows() == []
    stderr = capsys.readouterr().err
    assert "error: precision bf16: this CPU has no instructions for it" in stderr
    assert "use precision f32" in stderr
    assert "compiling CLAP" not in stderr


def test_vectors_in_bf16_do_not_pass_for_vectors_in_f32() -> None:
    assert WEIGHTS.embedding_model(8, "bf16") == "mine@0123456789ab/bf16/10s-max8"
    assert WEIGHTS.embedding_model(8, "bf16") != WEIGHTS.embedding_model(8, "f32")


def test_a_gpu_without_memory_for_one_window_stops_the_run_and_blames_no_file() -> None:
    windows = [(waveform * WINDOW_STEPS).astype(np.int16) for waveform in WAVEFORMS]
    gpu = FakeGpu(batch_size=32, memory_windows=0)
    with pytest.raises(RunStopped, match=r"on 11 windows: OutOfMemoryError: CUDA out of memory.*No file is to"):
        embed_windows(gpu.get_audio_embedding_from_data, windows)
    assert gpu.events == ["out of memory"] * 6  # 32, 16, 8, 4, 2, 1
