"""How the tests compare vectors: by bounds that follow from the arithmetic, and not from the machine of their author.

Each result of float32 arithmetic is rounded by up to `ROUNDING` of itself. Another processor adds the terms of a sum in
another order, so a sum of n products may differ by up to n roundings, and what a network of many layers makes of that
nobody can derive for an element. CLAP's vectors are therefore compared by their cosine, which is all they are used for.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from stem_dataset.clap.engine import LEAST_COSINE

ROUNDING = 2.0**-24  # float32 has 24 bits: half of the last one, relative to the value


def cosines(vectors: npt.ArrayLike, others: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The cosine of each row with the other's, in double precision."""
    a, b = np.asarray(vectors, np.float64), np.asarray(others, np.float64)
    cosine: npt.NDArray[np.float64] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosine


def assert_same_vectors(
    vectors: npt.ArrayLike, others: npt.ArrayLike, precision: Literal["f32", "bf16"] = "f32"
) -> None:
    """Assert that each row of (N, 512) is the other's but for the rounding of CLAP in that precision."""
    assert np.shape(vectors) == np.shape(others), f"the shapes are {np.shape(vectors)} and {np.shape(others)}"
    cosine = cosines(vectors, others)
    least = LEAST_COSINE[precision]
    worst = int(np.argmin(cosine))  # the first NaN, if there is one
    told = f"row {worst} of {len(cosine)} is the worst: its cosine is {cosine[worst]:.9f}, at least {least} is asked"
    assert (cosine >= least).all(), f"{told} in {precision}; {int((~(cosine >= least)).sum())} rows miss it"


def assert_a_swap_would_show(vectors: npt.ArrayLike) -> None:
    """Assert that no two rows of (N, 512) are so near that `assert_same_vectors` in f32 could take one for the other.

    Unit vectors of cosine c are √(2 - 2c) apart; a vector that passes for two of them is as near as that to either.
    """
    v = np.asarray(vectors, np.float64)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    apart = np.linalg.norm(v[:, np.newaxis] - v, axis=2) + 2 * np.eye(len(v))
    least = 2 * np.sqrt(2 - 2 * LEAST_COSINE["f32"])
    first, second = np.unravel_index(apart.argmin(), apart.shape)
    assert apart.min() > least, f"rows {first} and {second} are only {apart.min():.6f} apart, {least:.6f} is asked"


def assert_equal_to_the_last_bit(vectors: npt.ArrayLike, others: npt.ArrayLike) -> None:
    """Assert that float32 numbers are equal or neighbours, as one float64 result is that is rounded to float32.

    For the fake CLAP: it computes in float64, where another order of a sum changes the 16th digit.
    """
    np.testing.assert_array_max_ulp(np.asarray(vectors, np.float32), np.asarray(others, np.float32), maxulp=1)
