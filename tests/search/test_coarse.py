"""The coarse copy changes no result: the best are those of comparing every vector in float64."""

from __future__ import annotations

import numpy as np
import pytest

from stem_dataset.datatypes import Float32
from stem_dataset.search import coarse
from stem_dataset.search.coarse import best_cosines, coarse_of
from stem_dataset.search.rank import best, exact_cosines

NOWHERE = np.empty(0, np.int64)


def unit(vectors: Float32) -> Float32:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def library(seed: int, rows: int = 400) -> Float32:
    """Return unit vectors, (rows, 512): spread out, close together, with one large number, and copies of each other."""
    dice = np.random.default_rng(seed)
    vectors = dice.standard_normal((rows, 512), np.float32)
    vectors[: rows // 4] = vectors[0] + 0.03 * vectors[: rows // 4]
    vectors[rows // 4 : rows // 2, 7] += 100
    vectors = unit(vectors)
    copies = dice.integers(0, rows, (2, rows // 5))
    vectors[copies[0]] = vectors[copies[1]]
    return vectors


def in_full(vectors: Float32, query: Float32) -> Float32:
    return np.asarray([row.astype(np.float64) @ query.astype(np.float64) for row in vectors], np.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [0, 1, 20, 399, 1_000])
@pytest.mark.parametrize("share", [0.03, 0.4, 0.9, 1])
def test_the_best_are_those_of_comparing_all_in_full(
    seed: int, count: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse, "BLOCK_ROWS", 32)
    dice = np.random.default_rng(seed)
    vectors = library(seed)
    kept = np.flatnonzero(dice.random(len(vectors)) < share)
    also = dice.permutation(len(vectors))[:10]
    query = unit(vectors[dice.integers(len(vectors))] + 0.02 * dice.standard_normal(512, np.float32))
    scores = best_cosines(vectors, coarse_of(vectors), kept, query, count, also)
    expected = in_full(vectors[kept], query)
    found, wanted = best(scores, count), best(expected, count)
    np.testing.assert_allclose(scores[found], expected[wanted], rtol=0, atol=1e-7)
    if not np.array_equal(found, wanted):  # two cosines that differ by a rounding
        np.testing.assert_allclose(expected[found], expected[wanted], rtol=0, atol=1e-7)
    also_kept = np.isin(kept, also)
    np.testing.assert_allclose(scores[also_kept], expected[also_kept], rtol=0, atol=1e-7)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_no_cosine_is_off_by_more_than_the_error_that_is_kept(seed: int) -> None:
    vectors = library(seed)
    rows = coarse_of(vectors)
    rounded_off = vectors - rows["scale"][:, np.newaxis] * rows["codes"]
    # The vector along which a row is off most, and others.
    for query in (*unit(rounded_off[:20]), *vectors[:20]):
        coarse_cosines = rows["scale"] * (rows["codes"].astype(np.float32) @ query)
        assert (np.abs(coarse_cosines - in_full(vectors, query)) <= rows["error"]).all()
    assert np.median(rows["error"]) < 0.02


def test_only_vectors_that_may_be_among_the_best_are_read() -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((5_000, 512), np.float32))
    rows, query = coarse_of(vectors), vectors[17]
    full = in_full(vectors, query)
    expected = best(full, 5)
    vectors[full < full[expected[-1]] - 2 * rows["error"].max()] = np.nan
    scores = best_cosines(vectors, rows, np.arange(len(vectors)), query, 5, NOWHERE)
    assert best(scores, 5).tolist() == expected.tolist()
    assert np.isnan(vectors[:, 0]).mean() > 0.9
    assert np.isfinite(scores).all()


def test_equal_vectors_are_in_the_order_of_their_positions() -> None:
    vectors = np.repeat(unit(np.random.default_rng(1).standard_normal((3, 512), np.float32)), 700, axis=0)
    scores = best_cosines(vectors, coarse_of(vectors), np.arange(2_100), vectors[1_000], 900, NOWHERE)
    assert best(scores, 700).tolist() == list(range(700, 1_400))


def test_a_vector_that_is_not_a_number_or_zero_is_no_hit_and_no_error() -> None:
    vectors = library(1, 20)
    vectors[3], vectors[4, 5], vectors[5] = np.nan, np.nan, 0
    vectors[0] = unit(vectors[0] + 1)
    scores = best_cosines(vectors, coarse_of(vectors), np.arange(20), vectors[0], 4, NOWHERE)
    assert best(scores, 4)[0] == 0
    assert not {3, 4, 5} & set(best(scores, 4).tolist())


def test_exact_cosines_do_not_depend_on_the_rows_beside() -> None:
    vectors = library(2)
    together = exact_cosines(vectors, vectors[0])
    assert [exact_cosines(vectors[row : row + 1], vectors[0])[0] for row in range(400)] == together.tolist()
