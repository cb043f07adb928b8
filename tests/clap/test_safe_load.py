"""Checkpoint files that hold code, or are damaged."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from stem_dataset.clap.safe_load import refuse_damage
from stem_dataset.errors import WeightsMissing
from weights import CACHE


@pytest.fixture(autouse=True)
def empty_model_cache(tmp_path: Path) -> None:
    CACHE.folder = tmp_path / "model_cache"


# -- damage, or a machine that fails ---------------------------------------------------------------------------------


def archive(file: Path) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("data.pkl", b"weights" * 999)
    return file


def test_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    file = archive(tmp_path / "mine.pt")
    refuse_damage(file)
    with zipfile.ZipFile(file) as content:
        crc = content.infolist()[0].CRC.to_bytes(4, "little")
    file.write_bytes(file.read_bytes().replace(crc, b"abcd"))
    with pytest.raises(
        WeightsMissing, match=r"mine\.pt: damaged: the checksum of data\.pkl is wrong; download it again"
    ):
        refuse_damage(file)


@pytest.mark.parametrize("fault", [OSError(5, "Input/output error"), MemoryError()])
def test_a_failing_disk_or_want_of_memory_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(_: object) -> None:
        raise fault

    file = archive(tmp_path / "mine.pt")
    monkeypatch.setattr(zipfile.ZipFile, "testzip", fail)
    with pytest.raises(type(fault)):
        refuse_damage(file)
