"""Who computes CLAP's vectors, and what is kept for the next start: towers, spoiled in every way, and GPUs that are not
there. laion_clap itself stays out of this process; the vectors are compared with its own in test_clap.py."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import prepare_dataset_sql as product

pytestmark = pytest.mark.xdist_group("engines")  # torch and openvino are imported by one process

Vector = npt.NDArray[np.float32]
WEIGHTS = product.Weights("mine", "0123456789abcdef" * 4, None, "HTSAT-tiny")
UNIT = np.full(512, 512**-0.5, np.float32)


# -- towers, as they are kept ----------------------------------------------------------------------------------------


def small_tower(number: float = 1, **key: Any) -> tuple[Any, dict[str, Any]]:
    """A model that adds `number`, and its card: nothing here looks into a tower."""
    openvino = product.import_openvino()
    addend = openvino.opset13.parameter([1], np.float32)
    model = openvino.Model([openvino.opset13.add(addend, np.array([number], np.float32))], [addend])
    facts = {"architecture": "HTSAT-tiny", "is_stand_in": True, "reference_vector": UNIT.tolist()}
    return model, {"key": {**product.tower_key(WEIGHTS), **key}, **facts}


@pytest.fixture
def tower(tmp_path: Path) -> Path:
    """The folder of a tower that is whole."""
    folder = tmp_path / "cache" / "0123456789ab" / "openvino-1"
    product.keep_tower(folder, *small_tower())
    assert product.read_tower(folder, WEIGHTS) is not None
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
    card_file = folder / product.TOWER_CARD
    card = json.loads(card_file.read_text(encoding="utf-8"))
    card_file.write_text(json.dumps(product.sealed({**card, **changes})), encoding="utf-8")


def change_key(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_card(folder, key={**product.tower_key(WEIGHTS), **changes})


SPOIL_TOWER: dict[str, Callable[[Path], object]] = {
    "no folder": shutil.rmtree,
    "no network": lambda folder: (folder / "tower.xml").unlink(),
    "no numbers": lambda folder: (folder / "tower.bin").unlink(),
    "no card": lambda folder: (folder / "tower.json").unlink(),
    "network cut off": lambda folder: cut(folder / "tower.xml"),
    "numbers cut off": lambda folder: cut(folder / "tower.bin"),
    "card cut off": lambda folder: cut(folder / "tower.json"),
    "a flipped bit in the network": lambda folder: flip_a_byte(folder / "tower.xml"),
    "a flipped bit in the numbers": lambda folder: flip_a_byte(folder / "tower.bin"),
    "a flipped bit in the card": lambda folder: flip_a_byte(folder / "tower.json"),
    "an empty card": lambda folder: (folder / "tower.json").write_text("{}"),
    "a card that is a list": lambda folder: (folder / "tower.json").write_text("[]"),
    "a folder for a file": lambda folder: put_a_folder_for(folder / "tower.bin"),
    "another checkpoint": change_key(checkpoint_sha256="f" * 64),
    "another architecture": lambda folder: change_card(folder, architecture="HTSAT-base"),
    "another openvino": change_key(openvino="2025.0.0"),
    "another laion_clap": change_key(**{"laion-clap": "1.1.6"}),
    "another recipe": change_key(recipe=product.TOWER_RECIPE + 1),
    "another window": change_key(window_samples=product.WINDOW_SAMPLES // 2),
}


@pytest.mark.parametrize("way", SPOIL_TOWER)
def test_a_tower_that_is_damaged_or_for_something_else_is_none(tower: Path, way: str) -> None:
    SPOIL_TOWER[way](tower)
    assert product.read_tower(tower, WEIGHTS) is None


def test_a_card_that_is_changed_and_sealed_again_is_read(tower: Path) -> None:
    change_key()(tower)  # else the cases above would show the seal alone
    assert product.read_tower(tower, WEIGHTS) is not None


def test_a_tower_of_ones_own_checkpoint_has_the_architecture_that_its_card_says(tower: Path) -> None:
    change_card(tower, architecture="HTSAT-base")
    card = product.read_tower(tower, dataclasses.replace(WEIGHTS, architecture=None))
    assert card is not None
    assert card["architecture"] == "HTSAT-base"


class Killed(BaseException):
    """What no `except` of the product catches."""


@pytest.mark.parametrize("stale", [False, True], ids=["first", "stale"])
def test_a_build_that_is_killed_leaves_no_half_tower_and_the_next_one_is_whole(tmp_path: Path, stale: bool) -> None:
    built, former = small_tower(), small_tower(number=7, recipe=0)
    product.keep_tower(tmp_path / "whole", *built)
    whole = contents(tmp_path / "whole")
    for steps in range(100):
        folder = tmp_path / str(steps) / "openvino-1"
        if stale:
            product.keep_tower(folder, *former)
        was_killed = is_killed_after(steps, functools.partial(product.keep_tower, folder, *built))
        assert product.read_tower(folder, WEIGHTS) is None or contents(folder) == whole
        if not was_killed:
            break
        product.keep_tower(folder, *built)
        assert contents(folder) == whole
        assert sorted(path.name for path in folder.parent.iterdir()) == [".tower.lock", "openvino-1"]
    assert steps >= 8  # two folders, rmtree, the card, three moves, rmdir


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
    assert product.read_tower(folder, WEIGHTS) is None
    product.keep_tower(folder, *small_tower())
    assert "the compiled tower cannot be kept, so the next run compiles it again" in caplog.text


def test_openvino_that_cannot_write_its_files_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Can't open bin file to write")

    monkeypatch.setattr(product.import_openvino(), "save_model", fail)
    product.keep_tower(tmp_path / "0123456789ab" / "openvino-1", *small_tower())
    assert "the compiled tower cannot be kept" in caplog.text
    assert product.read_tower(tmp_path / "0123456789ab" / "openvino-1", WEIGHTS) is None
