"""Small audio files for the tests, good and broken, and ways to look at what a run did to a folder."""

from __future__ import annotations

import faulthandler
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import soundfile

import prepare_dataset_sql as product
from fake_clap import FakeClap

T = TypeVar("T")
RATE_HZ = 48_000


def write_tone(path: Path, hz: float = 440, seconds: float = 0.05) -> Path:
    """Write a valid mono WAV (whatever the name's suffix says), and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)
    with open(path, "wb") as file:  # libsndfile is not to see the name
        soundfile.write(file, tone, RATE_HZ, format="WAV", subtype="PCM_16")
    return path


def write_text(path: Path, text: str = "no audio at all") -> Path:
    """Write a file that is audio by its name only, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_nan(path: Path) -> Path:
    """Write a float WAV with a NaN in its middle."""
    samples = np.zeros(4_800, np.float32)
    samples[2_400] = np.nan
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    return path


def write_cut_flac(path: Path) -> Path:
    """Write the first half of a FLAC."""
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 48_000)
    soundfile.write(path, noise, RATE_HZ)
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size // 2)
    return path


def tree(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return what is in `folder`: of a file its bytes and mtime, of a link its text, of anything else its mode."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        name = os.path.relpath(path, folder)
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file():
            found[name] = ("file", path.read_bytes(), status.st_mtime_ns)
        else:
            found[name] = ("other", status.st_mode)
    return found


def everything(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the status of all in `folder`, its folders and itself included: what changes shows here."""
    status_of = {path: path.lstat() for path in [folder, *folder.rglob("*")]}
    return {
        str(path): (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path, status in status_of.items()
    }


def file_names(folder: Path) -> list[str]:
    """Return the names in `folder`, sorted, but for lock files and the folder of unfinished files."""
    return sorted(name for name in os.listdir(folder) if name not in (product.LOCK_NAME, product.SCRATCH))


class InlineExecutor(Executor):
    """An executor without processes, so that a test's faults reach `_process_file`."""

    _processes: dict[int, Any] | None = None  # what WorkerPool asks a ProcessPoolExecutor for
    _result_queue: Any = None

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def use_inline_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs in this process do the workers' part here too: fast, and within reach of `monkeypatch`."""
    monkeypatch.setattr(product.WorkerPool, "_new_executor", lambda self: InlineExecutor())
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)  # wants a real stderr


def use_fake_clap(monkeypatch: pytest.MonkeyPatch, model: FakeClap | None = None) -> None:
    """Let `main` in this process use a fake model, and draw no bar."""
    defaults = (lambda *_: model or FakeClap(), False)
    monkeypatch.setattr(product.DatasetPreparer.__init__, "__defaults__", defaults)


def fail_for(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: OSError, source: Path, times: int = 1_000
) -> None:
    """Let the function `owner.name` raise `error` when its first argument is `source`."""
    real = getattr(owner, name)
    left = [times]

    def failing(first: Any, *rest: Any, **options: Any) -> Any:
        if os.fspath(first) == str(source) and left[0] > 0:
            left[0] -= 1
            raise error
        return real(first, *rest, **options)

    monkeypatch.setattr(owner, name, failing)


def copy_with_times(source: Path, target: Path) -> Path:
    """Copy a file, mtime included."""
    return Path(shutil.copy2(source, target))
