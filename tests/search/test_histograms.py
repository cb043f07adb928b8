"""Columns as arrays, and the counts of a result."""

from __future__ import annotations

import numpy as np
import pytest

from libraries import SearchedLibrary, is_loop
from stem_dataset.music.key import KEY_NAMES
from stem_dataset.search.columns import ColumnArrays, load_columns, path_ranks
from stem_dataset.search.histograms import BPM_EDGES, SECONDS_EDGES, Histograms, NumberCounts, histograms_of
from stem_dataset.search.sidecar import open_sidecar


@pytest.fixture
def mixed(searched: SearchedLibrary) -> SearchedLibrary:
    """Four rows that differ in all columns; the last one is of unknown tempo, key and category."""
    searched.add("/music/d.wav", bpm=120.0, key="Am", category="bass", duration_s=4.0, features=is_loop(True))
    searched.add("/music/c.wav", bpm=121.9, key="C", category="kick", duration_s=0.25, features=is_loop(False))
    searched.add("/music/b.wav", bpm=174.0, key="Am", category="kick", duration_s=0.1)
    searched.add("/music/a.wav", bpm=None, key=None, category="unknown", duration_s=9_000.0, features=is_loop(None))
    return searched


def columns_of(library: SearchedLibrary) -> ColumnArrays:
    with open_sidecar(library.database, lambda done, total: None) as sidecar:
        return load_columns(sidecar.connection)


def filled(counts: NumberCounts) -> dict[float, int]:
    """Return the bins that are not empty, by their lower edge."""
    return {edge: count for edge, count in zip(counts.edges, counts.counts, strict=False) if count}


def sums(histograms: Histograms) -> list[int]:
    parts = (histograms.bpm, histograms.seconds, histograms.category, histograms.key)
    return [sum(part.counts) + part.missing for part in parts]


def test_the_columns_are_those_of_the_rows(mixed: SearchedLibrary) -> None:
    mixed.change("UPDATE stems SET user_rating = 4, quality_ok = 0 WHERE original_file = '/music/b.wav'")
    columns = columns_of(mixed)
    assert len(columns) == 4
    np.testing.assert_array_equal(columns.bpm, np.array([120, 121.9, 174, np.nan], np.float32))
    np.testing.assert_array_equal(columns.duration_s, np.array([4, 0.25, 0.1, 9_000], np.float32))
    assert columns.category_names == ["bass", "kick"]
    assert columns.category.tolist() == [0, 1, 1, -1]
    assert [KEY_NAMES[code] if code >= 0 else None for code in columns.key] == ["Am", "C", "Am", None]
    assert columns.rating.tolist() == [-1, -1, 4, -1]
    assert columns.is_loop.tolist()[:2] == [1, 0]
    assert columns.is_loop[3] == -1
    assert columns.is_ok.tolist() == [True, True, False, True]
    assert columns.model.tolist() == [0] * 4


def test_rows_are_sorted_by_path(mixed: SearchedLibrary) -> None:
    mixed.add("/music/aa.wav")
    with open_sidecar(mixed.database, lambda done, total: None) as sidecar:
        assert path_ranks(sidecar.connection).tolist() == [4, 3, 2, 0, 1]


def test_a_row_that_was_changed_is_read_again_also_with_a_new_category(mixed: SearchedLibrary) -> None:
    columns = columns_of(mixed)
    mixed.change("UPDATE stems SET user_rating = 5, category = 'anvil', bpm = 99 WHERE original_file = '/music/b.wav'")
    mixed.change("UPDATE stems SET user_rating = 1 WHERE original_file = '/music/a.wav'")
    with open_sidecar(mixed.database, lambda done, total: None) as sidecar:
        columns.refresh(sidecar.connection, [2])
    # The codes of the other rows hold.
    assert columns.category_names == ["bass", "kick", "anvil"]
    assert columns.category.tolist() == [0, 1, 2, -1]
    assert columns.bpm.tolist()[:3] == pytest.approx([120, 121.9, 99])
    assert columns.rating.tolist() == [-1, -1, 5, -1]


def test_a_histogram_counts_each_row_of_the_result_once(mixed: SearchedLibrary) -> None:
    columns = columns_of(mixed)
    histograms = histograms_of(columns, np.arange(4))
    assert filled(histograms.bpm) == {118: 2, 174: 1}
    assert histograms.bpm.missing == 1
    # What lies beyond the edges is in the first or last bin.
    assert [histograms.seconds.counts[0], histograms.seconds.counts[-1]] == [0, 1]
    assert list(filled(histograms.seconds)) == pytest.approx([2**-3.5, 0.25, 4, 2**11.5])
    assert (histograms.category.names, histograms.category.counts) == (["bass", "kick"], [1, 2])
    assert histograms.category.missing == 1
    keys = dict(zip(histograms.key.names, histograms.key.counts, strict=True))
    assert {name: count for name, count in keys.items() if count} == {"Am": 2, "C": 1}
    assert sums(histograms) == [4] * 4


def test_a_histogram_counts_only_the_rows_of_the_result(mixed: SearchedLibrary) -> None:
    histograms = histograms_of(columns_of(mixed), np.array([1, 3]))
    assert filled(histograms.bpm) == {118: 1}
    assert histograms.category.counts == [0, 1]
    assert sums(histograms) == [2] * 4


def test_the_keys_are_in_the_order_of_the_notes_first_the_major_ones(mixed: SearchedLibrary) -> None:
    names = histograms_of(columns_of(mixed), np.arange(4)).key.names
    assert names[:3] + names[11:13] == ["C", "C#", "D", "B", "Cm"]
    assert len(names) == 24


def test_nothing_has_a_histogram_of_noughts(mixed: SearchedLibrary) -> None:
    columns = columns_of(mixed)
    assert sums(histograms_of(columns, np.array([], np.int64))) == [0] * 4
    mixed.change("DELETE FROM stems")
    empty = columns_of(mixed)
    assert sums(histograms_of(empty, np.arange(0))) == [0] * 4
    assert histograms_of(empty, np.arange(0)).category.names == []


def test_many_rows_are_counted_as_numpy_counts_them() -> None:
    rng = np.random.default_rng(7)
    rows = 10_000
    bpm = rng.uniform(30, 302, rows).astype(np.float32)
    bpm[::3] = np.nan
    seconds = np.exp2(rng.uniform(-4, 12, rows)).astype(np.float32)
    codes = rng.integers(-1, 24, rows)
    eight = codes.astype(np.int8)
    names = [f"category {code}" for code in range(24)]
    columns = ColumnArrays(
        bpm, seconds, codes.astype(np.int16), eight, eight, eight, eight > 0, codes.astype(np.int16), names
    )
    positions = np.flatnonzero(rng.random(rows) < 0.4)
    histograms = histograms_of(columns, positions)
    known = bpm[positions][~np.isnan(bpm[positions])]
    assert histograms.bpm.counts == np.histogram(known, BPM_EDGES)[0].tolist()
    assert histograms.seconds.counts == np.histogram(seconds[positions], SECONDS_EDGES)[0].tolist()
    assert histograms.category.counts == histograms.key.counts
    assert histograms.key.counts[5] == int(np.count_nonzero(codes[positions] == 5))
    assert sums(histograms) == [len(positions)] * 4


def test_a_value_that_the_program_does_not_write_counts_as_not_known(mixed: SearchedLibrary) -> None:
    statement = "UPDATE stems SET user_rating = 500, key = 'H', features = ? WHERE original_file = '/music/d.wav'"
    mixed.change(statement, '{"is_loop": "yes"}')
    columns = columns_of(mixed)
    assert [columns.rating[0], columns.key[0], columns.is_loop[0]] == [-1, -1, -1]
