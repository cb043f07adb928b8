"""The fixtures that all tests share: a library of stems, the stand-in for CLAP, a user's working folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import filelock
import numpy as np
import pytest
import soundfile

import make_clap
import make_stems
import patching
from workplace import REPOSITORY, Workplace, run_program

# Each process of pytest-xdist has its own cache for what librosa compiles. When two processes fill one cache at
# the same time, numba stores a function under the types of another, and the next process to call it crashes.
os.environ["NUMBA_CACHE_DIR"] = str(REPOSITORY / "build" / "numba" / os.environ.get("PYTEST_XDIST_WORKER", "main"))
os.environ["NUMBA_OPT"] = "0"  # compiling takes longer than all that the tests then call

patching.refuse_patches_that_reach_nothing()
# Fixtures that several files share.
pytest_plugins = ("ingest", "sounds", "records", "libraries", "page_client", "browsing")

# In this order, those of minutes first: one that begins last leaves pytest-xdist's other process without work. Beside
# test_session, which computes, runs one that mostly waits, and none of the two that start programs with the real CLAP.
LONGEST_FILES = (
    "test_session test_local_pool test_dask_pool test_run test_machine test_signals test_openvino_engine "
    "test_duplicates test_download".split()
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; pytest-xdist is told to leave them so, as it would put those of most tests there."""
    rank = {name: number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Make a folder once a test run, whichever of pytest-xdist's processes comes first."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    with filelock.FileLock(root / f"{name}.lock"):
        if not (folder / ".complete").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / ".complete").touch()
    return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 74 fixtures: `stems/` and `truth.json`. Shared: copy before a run, which moves the broken ones."""
    return once(tmp_path_factory, "library", make_stems.make_stems)


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for CLAP: `hub/` and `stand-in.pt`. Taken from where `make` has built it, else built here."""
    built = REPOSITORY / "build" / "clap"
    if (built / "stand-in.pt").exists():
        return built
    return once(tmp_path_factory, "clap", make_clap.make_stand_in)


@pytest.fixture(scope="session")
def model_cache(stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model cache as the first run with the stand-in leaves it: the tower is compiled, and its hash is noted.

    Shared: copy it before spoiling it. `first_run/` in it is that run, on one stem.
    """

    def make(folder: Path) -> None:
        built = REPOSITORY / "build" / "demo" / "model_cache"
        if built.exists():  # compiled by `make demo`; what is stale in it is compiled again
            shutil.copytree(built, folder, dirs_exist_ok=True)
        place = Workplace(folder / "first_run")
        place.input.mkdir(parents=True)
        soundfile.write(place.input / "kick.wav", np.sin(np.arange(9_600) / 30), 48_000)
        flags = [*place.flags(), "--checkpoint", str(stand_in / "stand-in.pt"), "--device", "cpu"]
        result = run_program(*flags, "--model-cache", str(folder), stand_in=stand_in)
        assert result.returncode == 0, result.stderr
        (place.folder / "stderr.txt").write_text(result.stderr, encoding="utf-8")

    return once(tmp_path_factory, "model-cache", make)


@pytest.fixture
def stems(library: Path, tmp_path: Path) -> Path:
    """A copy of the 74 fixtures."""
    return Path(shutil.copytree(library / "stems", tmp_path / "stems"))


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """An empty input folder and its outputs-to-be."""
    place = Workplace(tmp_path)
    place.input.mkdir()
    return place


@pytest.fixture
def full_workplace(stems: Path) -> Workplace:
    """The 74 fixtures as input."""
    return Workplace(stems.parent)


@pytest.fixture
def drums(workplace: Workplace, library: Path) -> Workplace:
    """The one-shots of the fixtures' Drums folder: 25 files, all valid."""
    shutil.copytree(library / "stems" / "Drums", workplace.input, dirs_exist_ok=True)
    return workplace
