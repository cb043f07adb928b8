"""The map computed in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from libraries import SearchedLibrary, direction
from stem_dataset.search.library import Library
from stem_dataset.search.map_process import MapComputation, compute, own_numba_cache
from stem_dataset.search.sidecar import open_sidecar
from stem_dataset.search.sound_map import MAP_LOCK_NAME, find_map, map_file

# Python itself takes a second to start on a busy machine.
PATIENCE_S = 60.0


@pytest.fixture
def few(searched: SearchedLibrary) -> SearchedLibrary:
    """Four stems, which need no UMAP, and their sidecar."""
    for number, name in enumerate("abcd"):
        searched.add(f"/music/{name}.wav", direction(x=1, y=number))
    with open_sidecar(searched.database, lambda done, total: None):
        pass
    return searched


@pytest.fixture
def held(few: SearchedLibrary) -> filelock.BaseFileLock:
    """The lock that another computation holds."""
    lock = filelock.FileLock(few.sidecar / MAP_LOCK_NAME)
    lock.acquire()
    return lock


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_map_is_found_when_it_is_done(few: SearchedLibrary) -> None:
    file = map_file(few.database)
    standing = MapComputation(few.database, file).wait(PATIENCE_S)
    assert (standing.state, standing.done, standing.total, standing.error) == ("done", 1, 1, None)
    with open_sidecar(few.database, lambda done, total: None) as sidecar:
        found = find_map(Library(sidecar), file)
    assert found is not None
    assert len(found.missing) == 0


def test_it_says_what_it_does_and_stops_when_it_is_told_to(few: SearchedLibrary, held: filelock.BaseFileLock) -> None:
    file = map_file(few.database)
    computation = MapComputation(few.database, file)
    wait_until(lambda: computation.standing.activity == "waiting for another process")
    started = computation.standing
    computation.stop()
    assert (started.state, computation.standing.state) == ("computing", "stopped")
    assert not file.exists()
    held.release()
    assert MapComputation(few.database, file).wait(PATIENCE_S).state == "done"
    # Nothing happens to what is done.
    computation.stop()
    assert file.exists()


def test_it_ends_when_the_page_is_gone(few: SearchedLibrary, held: filelock.BaseFileLock) -> None:
    file = map_file(few.database)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=compute, args=(str(few.database), str(file), theirs), daemon=True)
    process.start()
    theirs.close()
    while ours.recv().activity != "waiting for another process":
        pass
    ours.close()
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    held.release()
    assert not file.exists()


def test_what_goes_wrong_is_said_in_words(few: SearchedLibrary, tmp_path: Path) -> None:
    standing = MapComputation(few.database, few.database / "map.npz").wait(PATIENCE_S)
    assert standing.state == "failed"
    assert "stems.db: the map cannot be kept" in (standing.error or "")
    missing = MapComputation(tmp_path / "none.db", tmp_path / "map.npz").wait(PATIENCE_S)
    assert missing.state == "failed"
    assert "there is no database at" in (missing.error or "")


def test_a_process_that_was_killed_has_failed(few: SearchedLibrary, held: filelock.BaseFileLock) -> None:
    computation = MapComputation(few.database, map_file(few.database))
    wait_until(lambda: computation.standing.activity == "waiting for another process")
    computation._process.kill()
    standing = computation.wait(PATIENCE_S)
    assert standing.state == "failed"
    assert "ended without a word" in (standing.error or "")
    held.release()


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process without asking it")
def test_a_signal_stops_it_where_it_does_not_look_for_the_word(
    few: SearchedLibrary, held: filelock.BaseFileLock
) -> None:
    computation = MapComputation(few.database, map_file(few.database))
    wait_until(lambda: computation.standing.activity == "waiting for another process")
    computation._process.terminate()
    computation.wait(PATIENCE_S)
    # 0: it has tidied up.
    assert computation._process.exitcode == 0
    held.release()


def test_two_computations_do_not_fill_one_cache_of_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    with own_numba_cache():
        folder = Path(os.environ["NUMBA_CACHE_DIR"])
        assert folder.is_dir()
    assert not folder.exists()
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setenv("NUMBA_CACHE_DIR", "of the user")
    with own_numba_cache():
        assert os.environ["NUMBA_CACHE_DIR"] == "of the user"
