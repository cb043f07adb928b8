"""What is laid out in two dimensions: with the real UMAP once, and by principal components."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from sound_groups import grouped_vectors, share_of_like_neighbours
from stem_dataset.datatypes import Float32
from stem_dataset.search.sound_neighbours import Neighbours
from stem_dataset.search.sound_projection import in_box, method_for, project

Reports = list[tuple[str, int, int]]


def ignore(activity: str, done: int, total: int) -> None:
    """Report to nobody."""


@pytest.fixture(scope="module")
def groups() -> tuple[Float32, npt.NDArray[np.int64]]:
    """Five groups of 24 vectors."""
    return grouped_vectors(120, 5)


@pytest.fixture(scope="module")
def laid_out(groups: tuple[Float32, npt.NDArray[np.int64]]) -> tuple[Float32, Reports]:
    """The groups laid out by UMAP, and what it reported."""
    reports: Reports = []
    places = project(Neighbours(groups[0], 0), 7, lambda *report: reports.append(report))
    return places, reports


def test_stems_that_sound_alike_lie_together(
    groups: tuple[Float32, npt.NDArray[np.int64]], laid_out: tuple[Float32, Reports]
) -> None:
    assert method_for(120) == "UMAP"
    places, _ = laid_out
    assert share_of_like_neighbours(places, groups[1]) > 0.95
    assert places.dtype == np.float32
    assert np.ptp(places, axis=0).max() == pytest.approx(2)
    assert np.abs(places).max() == pytest.approx(1)


def test_each_phase_and_each_epoch_is_reported(laid_out: tuple[Float32, Reports]) -> None:
    reports = laid_out[1]
    activities = list(dict.fromkeys(activity for activity, _, _ in reports))
    assert activities == ["comparing stems", "preparing UMAP", "laying out"]
    epochs = [done for activity, done, _ in reports if activity == "laying out"]
    assert epochs == sorted(epochs)
    assert set(range(1, 501)) <= set(epochs)
    assert {total for activity, _, total in reports if activity == "laying out"} == {500}


def test_the_same_seed_gives_the_same_places_and_another_seed_others(
    groups: tuple[Float32, npt.NDArray[np.int64]], laid_out: tuple[Float32, Reports]
) -> None:
    np.testing.assert_array_equal(project(Neighbours(groups[0], 0), 7, ignore), laid_out[0])
    assert not np.array_equal(project(Neighbours(groups[0], 0), 8, ignore), laid_out[0])


def test_it_stops_between_two_epochs(groups: tuple[Float32, npt.NDArray[np.int64]]) -> None:
    def stop_in_epoch_3(activity: str, done: int, total: int) -> None:
        if activity == "laying out" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project(Neighbours(groups[0], 0), 7, stop_in_epoch_3)


def test_many_copies_of_one_file_lie_side_by_side() -> None:
    vectors, _ = grouped_vectors(40, 1)
    vectors[:] = vectors[0]
    places = project(Neighbours(vectors, 0), 7, ignore)
    assert np.isfinite(places).all()
    assert np.abs(places).max() == pytest.approx(1)
    assert len(np.unique(places, axis=0)) == 40


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 14, 15, 16, 31])
def test_few_rows_have_a_map_too(rows: int) -> None:
    assert method_for(rows) == "PCA"
    vectors, of_row = grouped_vectors(rows, 2)
    places = project(Neighbours(vectors, 0), 7, ignore)
    assert places.shape == (rows, 2)
    assert places.dtype == np.float32
    assert np.isfinite(places).all()
    assert np.abs(places).max(initial=0) <= 1
    if rows == 1:
        assert places.tolist() == [[0, 0]]
    if rows > 1:
        assert np.ptp(places, axis=0).max() == pytest.approx(2)
    if rows > 13:
        assert share_of_like_neighbours(places, of_row) > 0.95


@pytest.mark.parametrize("rows", [2, 15])
def test_the_same_vector_has_the_same_place(rows: int) -> None:
    vectors, _ = grouped_vectors(rows, 1)
    vectors[:] = vectors[0]
    assert project(Neighbours(vectors, 0), 7, ignore).tolist() == [[0, 0]] * rows


def test_the_box_keeps_the_proportions() -> None:
    places = in_box(np.array([[10, 5], [30, 5], [20, 10]], np.float32))
    assert places.tolist() == [[-1, -0.25], [1, -0.25], [0, 0.25]]
