"""The windows that CLAP sees."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_clap import FakeClap
from ingest import WINDOW, all_files, clap_quantises, ingest, slice_starts, three_seconds
from patching import replace_name
from stem_dataset.audio.windowing import window_starts
from stem_dataset.clap.embed import embed_windows
from stem_dataset.errors import MachineFault
from workplace import Workplace


@pytest.mark.parametrize("step", ["analyse", "cut_windows"])
def test_no_scratch_file_is_left_when_the_machine_fails(
    workplace: Workplace, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    replace_name(monkeypatch, step, fail)
    with pytest.raises(MachineFault, match="No space left"):
        ingest(workplace, three_seconds("WAV"), "a.wav")
    assert all_files(workplace.wavs) == []
    assert all_files(workplace.input) == ["a.wav"]


class ListeningClap(FakeClap):
    """Remembers the waveforms of the last call."""

    heard: Sequence[npt.NDArray[np.float32]]

    def get_audio_embedding_from_data(self, x: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        self.heard = x
        return super().get_audio_embedding_from_data(x)


def test_all_65535_int16_steps_survive_claps_own_quantisation() -> None:
    steps = np.arange(-32_767, 32_768).astype(np.int16)
    clap = ListeningClap()
    embed_windows(clap.get_audio_embedding_from_data, [steps])
    assert clap.heard[0].dtype == np.float32
    np.testing.assert_array_equal(clap_quantises(clap.heard[0]), steps)


@given(length=st.integers(1, 20_000_000), max_windows=st.integers(1, 64))
def test_windows_start_where_the_rule_says_and_lie_inside(length: int, max_windows: int) -> None:
    starts = window_starts(length, max_windows)
    assert starts == slice_starts(length, max_windows)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    if length > WINDOW and max_windows > 1:
        assert starts[-1] + WINDOW == length
    if length <= max_windows * WINDOW:
        gaps = [after - before for before, after in itertools.pairwise(starts)]
        assert all(gap <= WINDOW for gap in gaps), "a sample that no window holds"


@pytest.mark.parametrize(
    ("length", "starts"), [(WINDOW, [0]), (WINDOW + 1, [0, 1]), (1_200_000, [0, 360_000, 720_000])]
)
def test_windows_of_known_lengths(length: int, starts: list[int]) -> None:
    assert window_starts(length, 8) == starts
