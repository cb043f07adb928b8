"""The comparisons of vectors that other tests rely on: what they let pass, and what they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stem_dataset.clap.engine import LEAST_COSINE
from vectors import assert_a_swap_would_show, assert_equal_to_the_last_bit, assert_same_vectors

UNIT = np.random.default_rng(5).normal(size=(4, 512))
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)


def turned(cosine: float) -> Any:
    """Return the rows, the third of them turned away until it has that cosine with itself."""
    rows = UNIT.copy()
    across = UNIT[0] - (UNIT[0] @ UNIT[2]) * UNIT[2]
    rows[2] = cosine * UNIT[2] + np.sqrt(1 - cosine**2) * across / np.linalg.norm(across)
    return rows


def test_the_least_cosines_are_those_that_were_asked_for() -> None:
    assert LEAST_COSINE == {"f32": 0.999_999, "bf16": 0.999_9}


@pytest.mark.parametrize(("precision", "passes", "fails"), [("f32", 0.9999992, 0.9999988), ("bf16", 0.99992, 0.99988)])
def test_vectors_are_the_same_down_to_the_least_cosine_and_the_worst_row_is_told(
    precision: Any, passes: float, fails: float
) -> None:
    assert_same_vectors(turned(passes).astype(np.float32), UNIT, precision)
    with pytest.raises(AssertionError, match=f"row 2 of 4 is the worst: its cosine is {fails:.7f}.* 1 rows miss it"):
        assert_same_vectors(turned(fails), UNIT, precision)


def test_another_order_of_a_sum_is_no_other_vector() -> None:
    """What a processor with other vector lanes does to each element: up to 512 roundings, to either side."""
    noise = np.random.default_rng(6).uniform(-1, 1, UNIT.shape) * 512 * 2.0**-24
    assert_same_vectors((UNIT * (1 + noise)).astype(np.float32), UNIT)


@pytest.mark.parametrize(
    "others",
    [UNIT[::-1], UNIT[:3], UNIT[:1], np.full((4, 512), np.nan), np.where(np.eye(4)[:, [1]], np.nan, UNIT)],
    ids=["swapped", "one too few", "one that would be broadcast", "NaN", "one of NaN"],
)
def test_other_rows_are_no_same_vectors(others: Any) -> None:
    with pytest.raises(AssertionError):
        assert_same_vectors(UNIT, others)


def test_rows_that_one_vector_could_pass_for_are_told() -> None:
    assert_a_swap_would_show(UNIT)
    with pytest.raises(AssertionError, match="rows 1 and 2 are only"):
        assert_a_swap_would_show([UNIT[0], UNIT[2], turned(0.999_997)[2]])


def test_neighbours_among_the_floats_are_equal_to_the_last_bit_and_the_next_ones_are_not() -> None:
    row = UNIT[0].astype(np.float32)
    neighbour = np.nextafter(row, np.float32(2))
    assert_equal_to_the_last_bit(neighbour, row)
    with pytest.raises(AssertionError):
        assert_equal_to_the_last_bit(np.nextafter(neighbour, np.float32(2)), row)
