"""--verify-vectors: which rows are checked, and what counts as wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

# A stored vector whose cosine with the one computed now is lower is wrong. Engines whose reference vectors agree stay
# far above it, in bf16 too.
VERIFIED_COSINE = 0.999_9
SAMPLE_PERCENT = 5.0
LEAST_SAMPLE = 200  # rows


def sample_of(rowids: Sequence[int], percent: float, limit: int | None, seed: str) -> Sequence[int]:
    """Return `percent` of `rowids`, drawn uniformly: at least 200 (or all, where there are fewer), at most `limit`."""
    size = min(max(LEAST_SAMPLE, math.ceil(len(rowids) * percent / 100)), len(rowids), limit or len(rowids))
    return sorted(random.Random(seed).sample(rowids, size)) if size < len(rowids) else rowids
