"""The nearest of some stems to others, and the places that follow from them."""

from __future__ import annotations

import numpy as np
import pytest

from libraries import direction
from patching import replace_name
from sound_groups import grouped_vectors
from stem_dataset.search.sound_neighbours import Neighbours, blocks, nearest_of_each, place_among


def test_up_to_some_thousand_stems_the_nearest_are_exactly_those_of_the_highest_cosines() -> None:
    vectors, _ = grouped_vectors(600, 30)
    rows, _ = grouped_vectors(200, 30, seed=5)
    indexes, distances = Neighbours(vectors, 0).nearest(rows, 5)
    cosines = rows @ vectors.T
    np.testing.assert_array_equal(indexes, np.argsort(-cosines, axis=1)[:, :5])
    np.testing.assert_allclose(distances, 1 - np.sort(cosines, axis=1)[:, :-6:-1], atol=1e-6)


def test_among_more_stems_nearly_all_of_the_nearest_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_name(monkeypatch, "CANDIDATES", 200)
    replace_name(monkeypatch, "GROUP_ROWS", 50)
    # Blocks of products that hold only a part of a group's rows.
    replace_name(monkeypatch, "PRODUCTS", 700)
    vectors, _ = grouped_vectors(2_000, 30)
    rows, _ = grouped_vectors(500, 30, seed=5)
    indexes, distances = Neighbours(vectors, 0).nearest(rows, 5)
    exact = np.argsort(-(rows @ vectors.T), axis=1)[:, :5]
    assert np.mean([len(set(found) & set(true)) for found, true in zip(indexes, exact, strict=True)]) > 4.8
    assert (np.diff(distances, axis=1) >= 0).all()
    np.testing.assert_allclose(1 - np.einsum("mkd,md->mk", vectors[indexes], rows), distances, atol=1e-5)


def test_each_stems_nearest_is_itself_also_among_copies() -> None:
    vectors, _ = grouped_vectors(40, 4)
    vectors[10:35] = vectors[10]
    done: list[int] = []
    indexes, distances = nearest_of_each(Neighbours(vectors, 0), 6, done.append)
    np.testing.assert_array_equal(indexes[:, 0], np.arange(40))
    assert not distances[:, 0].any()
    # 25 copies: the other five are copies too, each named once.
    assert not distances[10:35].any()
    assert all(len(set(row)) == 6 for row in indexes.tolist())
    assert sum(done) == 40


def test_a_copy_lands_on_its_stem_and_what_is_between_two_lands_between_them() -> None:
    stems = Neighbours(np.stack([direction(x=1), direction(y=1)]), 0)
    places = np.array([[-1, 0], [1, 1]], np.float32)
    rows = np.stack([direction(y=1), direction(x=1, y=1), direction(x=2, y=1)])
    copy, middle, nearer_to_x = place_among(stems, places, rows)
    assert copy.tolist() == pytest.approx([1, 1], abs=1e-4)
    assert middle.tolist() == pytest.approx([0, 0.5], abs=1e-4)
    # Distances 0.106 and 0.553: the squares of their inverses are as 27 to 1.
    assert nearer_to_x.tolist() == pytest.approx([-1 + 2 / 28, 1 / 28], abs=0.01)


def test_blocks_have_each_position_once() -> None:
    assert [len(block) for block in blocks(np.arange(70_000))] == [32_768, 32_768, 4_464]
    assert list(blocks(np.arange(0))) == []
