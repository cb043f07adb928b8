"""The whole run on the 74 fixtures, with real workers, real files, real SQLite and a fake model."""

from __future__ import annotations

from conftest import Workplace
from fake_clap import FakeClap


def test_71_valid_files_get_rows_and_3_broken_ones_go_to_quarantine(full_workplace: Workplace) -> None:
    clap = FakeClap()
    summary = full_workplace.run(clap)
    assert (summary.found, summary.inserted, summary.quarantined, summary.failed) == (74, 71, 3, 0)
    assert clap.call_sizes == [73]
    assert len(full_workplace.originals()) == 71
    assert full_workplace.quarantined() == [
        "ERROR_LibsndfileError_kick_empty.wav",
        "ERROR_LibsndfileError_pad_cut_short.flac",
        "ERROR_LibsndfileError_snare_notes.wav",
    ]
