"""Reading blocks of any format."""

from __future__ import annotations

import numpy as np
import pytest

from audio_files import encode, noise
from ingest import RATE_HZ, TAILS, Decode
from stem_dataset.audio.source import BLOCK_S


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [1, 4_096, 4_097, 2 * BLOCK_S * RATE_HZ, 5 * RATE_HZ])
def test_flac_with_anything_after_its_last_frame_has_the_samples_of_the_one_without(
    decode: Decode, frames: int, channels: int, tail: bytes
) -> None:
    flac = encode(noise(frames, channels), RATE_HZ, "FLAC")
    whole, tailed = decode(flac), decode(flac + tail)
    assert tailed.source == whole.source
    assert tailed.source.frames == frames
    np.testing.assert_array_equal(tailed.samples, whole.samples)
