"""The map that is kept: what is computed anew, what stays, and what a damaged file does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from libraries import SearchedLibrary, add_all, direction
from patching import replace_name
from sound_groups import grouped_vectors, library_of, share_of_like_neighbours
from stem_dataset.datatypes import Float32
from stem_dataset.errors import RunStopped
from stem_dataset.search.library import Library
from stem_dataset.search.sidecar import open_sidecar
from stem_dataset.search.sound_map import find_map, make_map, map_file
from stem_dataset.search.sound_neighbours import Neighbours
from stem_dataset.search.sound_projection import Report, principal_components

VECTORS, OF_ROW = grouped_vectors(40, 4)
IDS = [f"stem {number}" for number in range(40)]


def ignore(activity: str, done: int, total: int) -> None:
    """Report to nobody."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "map.npz"


@pytest.fixture
def projections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lay out by principal components instead of UMAP; the numbers of stems that were laid out."""
    calls: list[int] = []

    def fake(neighbours: Neighbours, seed: int, report: Report) -> Float32:
        calls.append(len(neighbours.vectors))
        report("laying out", 1, 2)
        report("laying out", 2, 2)
        return principal_components(neighbours.vectors)

    replace_name(monkeypatch, "project", fake)
    return calls


def first(count: int) -> Library:
    """Return a library of the first `count` stems."""
    return library_of(VECTORS[:count], IDS[:count])


def test_a_map_is_computed_once(file: Path, projections: list[int]) -> None:
    assert find_map(first(40), file) is None
    made = make_map(first(40), file, ignore)
    assert projections == [40]
    assert share_of_like_neighbours(made.places, OF_ROW) > 0.6
    for again in (find_map(first(40), file), make_map(first(40), file, ignore)):
        assert again is not None
        np.testing.assert_array_equal(again.places, made.places)
        assert again.header == made.header
        assert len(again.missing) == 0
    assert projections == [40]
    assert [path.name for path in file.parent.glob("*.npz*")] == ["map.npz"]


def test_the_header_says_how_the_map_was_computed(file: Path, projections: list[int]) -> None:
    make_map(first(40), file, ignore)
    with np.load(file) as arrays:
        header = json.loads(arrays["header"].tobytes())
    assert (header["embedding_model"], header["seed"], header["method"]) == ("model", 0, "UMAP")
    assert (header["rows"], header["laid_out"]) == (40, 40)
    assert header["parameters"] == {"nearest": 15, "least_distance": 0.1, "metric": "cosine", "placed_among": 5}
    assert set(header["versions"]) == {"numpy", "umap-learn", "numba"}


def test_the_rows_beyond_the_sample_are_placed_among_their_like(
    file: Path, projections: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "SAMPLE_ROWS", 16)
    reports: list[tuple[str, int, int]] = []
    made = make_map(first(40), file, lambda *report: reports.append(report))
    assert projections == [16]
    assert (made.header.rows, made.header.laid_out, int(made.is_laid_out.sum())) == (40, 16, 16)
    assert np.isfinite(made.places).all()
    for group in range(4):
        sampled = made.places[(group == OF_ROW) & made.is_laid_out]
        others = made.places[(group == OF_ROW) & ~made.is_laid_out]
        assert len(sampled)
        apart = np.linalg.norm(others[:, None] - sampled[None], axis=-1).min(axis=1)
        assert apart.max() < 0.3
    assert reports[-1] == ("placing the others", 24, 24)


def test_added_rows_are_placed_and_the_others_stay(file: Path, projections: list[int]) -> None:
    former = make_map(first(32), file, ignore)
    unfinished = find_map(first(40), file)
    assert unfinished is not None
    assert unfinished.missing.tolist() == list(range(32, 40))
    assert np.isnan(unfinished.places[32:]).all()
    made = make_map(first(40), file, ignore)
    assert projections == [32]
    np.testing.assert_array_equal(made.places[:32], former.places)
    assert (made.header.rows, made.header.laid_out) == (40, 32)
    for place, group in zip(made.places[32:], OF_ROW[32:], strict=True):
        nearest = np.argsort(np.linalg.norm(made.places[:32] - place, axis=1))[:3]
        assert (OF_ROW[nearest] == group).mean() > 0.6
    assert find_map(first(40), file) is not None


def test_a_row_keeps_its_place_wherever_it_stands_in_the_database(file: Path, projections: list[int]) -> None:
    former = make_map(first(40), file, ignore)
    order = np.random.default_rng(3).permutation(40)[:30]
    found = find_map(library_of(VECTORS[order], [IDS[row] for row in order]), file)
    assert found is not None
    np.testing.assert_array_equal(found.places, former.places[order])
    assert projections == [40]


def test_a_file_with_other_bytes_is_placed_again(file: Path, projections: list[int]) -> None:
    make_map(first(40), file, ignore)
    library = first(40)
    library.connection.execute("UPDATE stems SET sha256 = 'edited' WHERE position = 7")
    found = find_map(library, file)
    assert found is not None
    assert found.missing.tolist() == [7]


def test_all_are_laid_out_anew_when_more_than_half_are_new(file: Path, projections: list[int]) -> None:
    make_map(first(19), file, ignore)
    assert find_map(first(38), file) is not None
    assert find_map(first(39), file) is None
    make_map(first(39), file, ignore)
    assert projections == [19, 39]


def test_all_are_laid_out_anew_when_more_than_half_of_the_sample_are_gone(file: Path, projections: list[int]) -> None:
    make_map(first(20), file, ignore)
    make_map(first(40), file, ignore)
    assert find_map(library_of(VECTORS[10:], IDS[10:]), file) is not None
    assert find_map(library_of(VECTORS[11:], IDS[11:]), file) is None
    assert projections == [20]


@pytest.mark.parametrize("name", ["MAP_RECIPE", "SEED", "PARAMETERS"])
def test_all_are_laid_out_anew_when_the_program_does_it_otherwise(
    file: Path, projections: list[int], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make_map(first(40), file, ignore)
    replace_name(monkeypatch, name, {"nearest": 16} if name == "PARAMETERS" else 2)
    assert find_map(first(40), file) is None
    make_map(first(40), file, ignore)
    assert find_map(first(40), file) is not None
    assert projections == [40, 40]


def test_all_are_laid_out_anew_when_the_model_is_another_one(file: Path, projections: list[int]) -> None:
    make_map(first(40), file, ignore)
    other = library_of(VECTORS, IDS, ["other"] * 40)
    assert find_map(other, file) is None
    assert make_map(other, file, ignore).header.embedding_model == "other"
    assert projections == [40, 40]


def test_rows_of_another_model_have_no_place(file: Path, projections: list[int]) -> None:
    library = library_of(VECTORS, IDS, [*["other"] * 12, *["model"] * 28])
    made = make_map(library, file, ignore)
    assert projections == [28]
    assert np.isnan(made.places[:12]).all()
    assert np.isfinite(made.places[12:]).all()
    found = find_map(library, file)
    assert found is not None
    assert len(found.missing) == 0
    assert np.isnan(found.places[:12]).all()


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_a_few_rows_have_a_map_and_keep_it(file: Path, rows: int) -> None:
    made = make_map(first(rows), file, ignore)
    assert made.places.shape == (rows, 2)
    assert np.isfinite(made.places).all()
    found = find_map(first(rows), file)
    assert found is not None
    np.testing.assert_array_equal(found.places, made.places)


def test_a_library_that_was_empty_gets_a_map(file: Path) -> None:
    make_map(library_of(VECTORS[:0], []), file, ignore)
    made = make_map(first(3), file, ignore)
    assert (made.header.rows, made.header.laid_out, made.header.method) == (3, 3, "PCA")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def changed_within(content: bytes) -> bytes:
    place = content.index(b"is_laid_out.npy") - 100
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def empty(content: bytes) -> bytes:
    return b""


def something_else(content: bytes) -> bytes:
    return b"something else"


@pytest.mark.parametrize("damage", [cut, changed_within, empty, something_else])
def test_a_damaged_file_is_computed_again(
    file: Path, projections: list[int], damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    made = make_map(first(40), file, ignore)
    file.write_bytes(damage(file.read_bytes()))
    assert find_map(first(40), file) is None
    assert "map.npz: is damaged, so the map is computed again" in caplog.text
    np.testing.assert_array_equal(make_map(first(40), file, ignore).places, made.places)
    assert projections == [40, 40]
    assert find_map(first(40), file) is not None


@pytest.mark.parametrize("activity", ["reading", "laying out", "placing the others"])
@pytest.mark.parametrize("had_one", [False, True])
def test_a_stop_in_the_middle_leaves_nothing_behind_and_what_was_kept_stays(
    file: Path, projections: list[int], monkeypatch: pytest.MonkeyPatch, activity: str, had_one: bool
) -> None:
    replace_name(monkeypatch, "SAMPLE_ROWS", 20)
    if had_one:
        make_map(library_of(VECTORS, IDS, ["other"] * 40), file, ignore)
    before = {path.name: path.read_bytes() for path in file.parent.glob("map.npz*")}
    assert len(before) == had_one

    def stop(now: str, done: int, total: int) -> None:
        if now == activity:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_map(first(40), file, stop)
    assert {path.name: path.read_bytes() for path in file.parent.glob("map.npz*")} == before
    # The lock is free again.
    assert make_map(first(40), file, ignore).header.rows == 40


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, projections: list[int]) -> None:
    (tmp_path / "folder").write_text("a file of this name")
    with pytest.raises(RunStopped, match="folder: the map cannot be kept"):
        make_map(first(40), tmp_path / "folder" / "map.npz", ignore)


def test_a_disk_that_is_full_is_said_and_leaves_no_rest(
    file: Path, projections: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    replace_name(monkeypatch, "put_in_place", full)
    with pytest.raises(RunStopped, match=r"map cannot be kept.*free some space"):
        make_map(first(40), file, ignore)
    assert list(file.parent.glob("map.npz*")) == []


def test_the_map_outlives_the_sidecar_that_it_was_made_from(searched: SearchedLibrary) -> None:
    for number, name in enumerate("abcd"):
        searched.add(f"/music/{name}.wav", direction(x=1, y=number))
    file = map_file(searched.database)
    assert file == searched.sidecar / "map.npz"
    with open_sidecar(searched.database, lambda done, total: None) as sidecar:
        former = make_map(Library(sidecar), file, ignore)
    add_all(searched, ["e.wav"])
    searched.change("DELETE FROM stems WHERE original_file = '/music/a.wav'")
    searched.run("--like", "/music/b.wav")
    with open_sidecar(searched.database, lambda done, total: None) as sidecar:
        found = find_map(Library(sidecar), file)
        assert found is not None
        np.testing.assert_array_equal(found.places[:3], former.places[1:])
        assert found.missing.tolist() == [3]
        made = make_map(Library(sidecar), file, ignore)
    assert dataclasses.replace(made.header, rows=0) == dataclasses.replace(former.header, rows=0)
    assert np.isfinite(made.places).all()
