"""Which checkpoint, and whether it is genuine."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from patching import replace_name, value_of
from stem_dataset.clap.checkpoints import CHECKPOINTS, ModelCache, Weights, identify_weights, warn_of_odd_weights
from stem_dataset.errors import UsageError, WeightsMissing
from weights import CACHE, CHECKPOINT, CHECKPOINT_SHA256, NAME

# It begins as a pickle does.
OWN = b"\x80 weights"


@pytest.fixture(autouse=True)
def empty_model_cache(tmp_path: Path) -> None:
    CACHE.folder = tmp_path / "model_cache"


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_published_name_comes_from_the_hub_with_its_hash_and_architecture(name: str) -> None:
    known = CHECKPOINTS[name]
    assert identify_weights(name, CACHE) == Weights(name, known.sha256, None, known.architecture)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("630k-audioset-bset", "630k-audioset-best"),
        ("630K-BEST", "630k-best"),
        ("music_audioset", "music_audioset_epoch_15_esc_90.14"),
    ],
)
def test_a_name_that_is_nearly_right_is_a_usage_error_that_says_which_is_meant(given: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        identify_weights(given, CACHE)
    assert str(caught.value) == (
        f"--checkpoint {given!r}: neither a file nor a published checkpoint; did you mean {meant!r}? Published ones: "
        + ", ".join(CHECKPOINTS)
    )


@pytest.mark.parametrize("given", ["mine.pt", "folder/mine", "~/mine.pt"])
def test_a_file_that_is_not_there_is_a_usage_error_as_a_wrong_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        identify_weights(given, CACHE)
    text = str(caught.value)
    assert text.startswith(f"--checkpoint {Path(given).expanduser()}: no such file")
    assert all(name in text for name in CHECKPOINTS)


def test_a_file_that_cannot_be_read_is_missing_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "mine.pt").write_bytes(OWN)
    replace_name(monkeypatch, "sha256_of_path", refuse)
    with pytest.raises(WeightsMissing, match=r"mine\.pt.*Permission denied"):
        identify_weights(str(tmp_path / "mine.pt"), CACHE)


def test_a_file_of_ones_own_is_named_by_its_stem_and_hash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "mine.v2.pt"
    file.write_bytes(OWN)
    weights = identify_weights(str(file), CACHE)
    assert weights == Weights("mine.v2", hashlib.sha256(OWN).hexdigest(), file, None)
    warn_of_odd_weights(weights)
    assert "is not a published checkpoint" in caplog.text


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"RIFF\0\0\0\0WAVE", b"a"], ids=["web page", "wav", "a byte"])
def test_a_file_that_holds_something_else_is_no_checkpoint_and_leaves_no_note(tmp_path: Path, content: bytes) -> None:
    file, cache = tmp_path / "mine.pt", tmp_path / "cache"
    file.write_bytes(content)
    with pytest.raises(WeightsMissing, match=r"mine\.pt: holds no checkpoint"):
        identify_weights(str(file), ModelCache(cache))
    assert not cache.exists()


def test_a_name_that_is_not_utf_8_can_be_stored(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("other systems' file names are always Unicode")
    file = tmp_path / os.fsdecode(b"mine\xff.pt")
    file.write_bytes(OWN)
    weights = identify_weights(str(file), CACHE)
    assert weights.embedding_model(8, "f32").startswith("mine\\udcff@")
    assert identify_weights(str(file), CACHE) == weights  # from the note of its hash, this time


def test_a_published_checkpoint_is_known_by_its_hash_whatever_its_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "downloaded (1).bin"
    file.write_bytes(OWN)
    sha256 = hashlib.sha256(OWN).hexdigest()
    known = dataclasses.replace(CHECKPOINTS["music_audioset_epoch_15_esc_90.14"], sha256=sha256)
    monkeypatch.setitem(CHECKPOINTS, known.name, known)
    weights = identify_weights(str(file), CACHE)
    assert weights == Weights(known.name, sha256, file, "HTSAT-base")
    warn_of_odd_weights(weights)
    assert caplog.text == ""


def zip_file(content: bytes) -> bytes:
    """An archive, as torch writes one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data/0", content)
    return buffer.getvalue()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the published checkpoints hold, for these tests; the one of NAME has a known size."""
    contents = {name: zip_file(name.encode() * 99) for name in CHECKPOINTS}
    for name, content in contents.items():
        sha256 = hashlib.sha256(content).hexdigest()
        size_bytes = len(content) if name == NAME else None
        known = dataclasses.replace(CHECKPOINTS[name], sha256=sha256, size_bytes=size_bytes)
        monkeypatch.setitem(CHECKPOINTS, name, known)
    return contents


def test_a_published_checkpoint_under_its_own_name_is_itself(
    tmp_path: Path, published: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / f"{NAME}.pt"
    file.write_bytes(published[NAME])
    known = CHECKPOINTS[NAME]
    assert identify_weights(str(file), CACHE) == Weights(NAME, known.sha256, file, known.architecture)
    assert caplog.text == ""


def test_a_published_checkpoint_under_the_name_of_another_is_a_wrong_pairing(
    tmp_path: Path, published: dict[str, bytes]
) -> None:
    file = tmp_path / f"{NAME}.pt"
    file.write_bytes(published["music_audioset_epoch_15_esc_90.14"])
    with pytest.raises(UsageError) as caught:
        identify_weights(str(file), CACHE)
    assert str(caught.value) == (
        f"{file}: wrong pairing: the name says 630k-audioset-best, the content is music_audioset_epoch_15_esc_90.14 "
        "(HTSAT-base); rename it to music_audioset_epoch_15_esc_90.14.pt"
    )


def test_half_a_published_checkpoint_is_truncated_at_so_many_of_its_bytes(
    tmp_path: Path, published: dict[str, bytes]
) -> None:
    file = tmp_path / f"{NAME}.pt"
    file.write_bytes(published[NAME][:1_000])
    with pytest.raises(WeightsMissing) as caught:
        identify_weights(str(file), CACHE)
    size = f"1,000 of {len(published[NAME]):,} bytes"
    assert str(caught.value) == f"{file}: truncated: ends after {size}; download it again"


@pytest.mark.parametrize("size_bytes", [0, 3, 1_000])
def test_half_a_checkpoint_of_ones_own_is_truncated(tmp_path: Path, size_bytes: int) -> None:
    file = tmp_path / "mine.pt"
    file.write_bytes(zip_file(b"weights" * 999)[:size_bytes])
    with pytest.raises(
        WeightsMissing, match=rf"mine\.pt: truncated: ends after {size_bytes:,} bytes; download it again"
    ):
        identify_weights(str(file), CACHE)


def test_a_published_checkpoint_with_another_hash_is_modified_and_not_corrupt(
    tmp_path: Path, published: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    file, content = tmp_path / f"{NAME}.pt", zip_file(b"saved again")
    file.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    weights = identify_weights(str(file), CACHE)
    assert weights == Weights(NAME, sha256, file, None)
    warn_of_odd_weights(weights)
    assert f"is a modified {NAME}: its sha256 is {sha256[:12]}…" in caplog.text
    assert f"the published one's {CHECKPOINTS[NAME].sha256[:12]}…" in caplog.text
    assert "Its vectors are comparable only with each other" in caplog.text


def test_equal_texts_mean_comparable_vectors() -> None:
    weights = Weights("mine", "0123456789abcdef" * 4, None, None)
    assert weights.embedding_model(8, "f32") == "mine@0123456789ab/f32/10s-max8"
    others = (
        weights.embedding_model(4, "f32"),
        dataclasses.replace(weights, sha256="f" * 64).embedding_model(8, "f32"),
        dataclasses.replace(weights, name="yours").embedding_model(8, "f32"),
    )
    assert weights.embedding_model(8, "f32") not in others
    moved = dataclasses.replace(weights, file=Path("/elsewhere/mine.pt"))
    assert moved.embedding_model(8, "f32") == weights.embedding_model(8, "f32")


# -- the model cache -------------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed whole."""
    names: list[str] = []
    sha256_of_path = value_of("sha256_of_path")

    def counting(path: Path) -> str:
        names.append(path.name)
        return str(sha256_of_path(path))

    replace_name(monkeypatch, "sha256_of_path", counting)
    return names


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    """A file of 24 MiB, as good as a checkpoint to whoever hashes it."""
    file = tmp_path / "mine.pt"
    file.write_bytes(CHECKPOINT)
    return file


def test_a_file_that_was_hashed_once_is_not_read_again(weights_file: Path, hashed: list[str]) -> None:
    noted = CACHE.sha256_of(weights_file)
    assert noted == CHECKPOINT_SHA256
    assert ModelCache(CACHE.folder).sha256_of(weights_file) == noted
    assert hashed == ["mine.pt"]


def test_a_file_with_another_mtime_is_hashed_again(weights_file: Path, hashed: list[str]) -> None:
    CACHE.sha256_of(weights_file)
    status = weights_file.stat()
    weights_file.write_bytes(CHECKPOINT[::-1])
    os.utime(weights_file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert CACHE.sha256_of(weights_file) == hashlib.sha256(CHECKPOINT[::-1]).hexdigest()
    assert hashed == ["mine.pt"] * 2


def test_a_file_with_another_size_is_hashed_again(weights_file: Path, hashed: list[str]) -> None:
    CACHE.sha256_of(weights_file)
    status = weights_file.stat()
    weights_file.write_bytes(CHECKPOINT[:-1])
    os.utime(weights_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert CACHE.sha256_of(weights_file) == hashlib.sha256(CHECKPOINT[:-1]).hexdigest()
    assert hashed == ["mine.pt"] * 2


@pytest.mark.parametrize("spoil", ["not JSON", "[]", '{"FILE": 5}', '{"FILE": {"size_and_mtime_ns": MARK}}'])
def test_a_note_that_is_damaged_is_made_anew(weights_file: Path, hashed: list[str], spoil: str) -> None:
    status = weights_file.stat()
    mark = json.dumps([status.st_size, status.st_mtime_ns])
    CACHE.folder.mkdir()
    note_file = CACHE.folder / "sha256.json"
    note_file.write_text(spoil.replace("FILE", str(weights_file.resolve())).replace("MARK", mark))
    assert [CACHE.sha256_of(weights_file) for _ in range(2)] == [CHECKPOINT_SHA256] * 2
    assert hashed == ["mine.pt"]


@pytest.mark.parametrize("name", ["a file", "a file/in/it", "x" * 300], ids=["a file", "in a file", "too long a name"])
def test_a_model_cache_that_cannot_be_written_costs_a_warning(
    weights_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (tmp_path / "a file").touch()
    assert ModelCache(tmp_path / name).sha256_of(weights_file) == CHECKPOINT_SHA256
    assert "the model cache cannot be written, so the next start is slower" in caplog.text


def test_a_killed_write_leaves_the_former_content(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    file = CACHE.folder / "a"
    CACHE.keep(file, b"former")
    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        CACHE.keep(file, b"new")
    assert file.read_bytes() == b"former"
