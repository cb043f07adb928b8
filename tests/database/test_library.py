"""The owner's corrections, and the view `library`, which shows what holds of every stem."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from audio_files import use_inline_workers, write_text, write_tone
from prepare_dataset_sql import main
from records import PROVENANCE, record
from stem_dataset.database.stems import Database
from workplace import Workplace, use_quick_analysis

LATIN_1 = os.fsdecode(b"/old/\xe9t\xe9/kick.wav")  # no UTF-8


@pytest.fixture
def place(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A workplace with one imported tone, kick.wav."""
    use_inline_workers(monkeypatch)
    use_quick_analysis(monkeypatch)
    write_tone(workplace.input / "kick.wav")
    workplace.run()
    return workplace


def plain_rows(path: Path, query: str) -> list[dict[str, Any]]:
    """Return what a program finds that knows nothing of ours: sqlite3 with its own text factory."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def held(place: Workplace) -> dict[str, Any]:
    """Return the only stem as `library` shows it."""
    (row,) = plain_rows(place.database, "SELECT * FROM library")
    return row


def correct(place: Workplace, column: str, value: object) -> None:
    place.change(
        "INSERT OR REPLACE INTO corrections (stem_id, column_name, value) SELECT id, ?, ? FROM stems", column, value
    )


def test_one_insert_with_three_values_corrects_a_stem(place: Workplace) -> None:
    before = held(place)
    correct(place, "bpm", 87)
    after = held(place)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"bpm", "bpm_source", "corrected"}
    assert (after["bpm"], after["bpm_source"], after["corrected"]) == (87.0, "correction", "bpm")
    (row,) = place.rows("SELECT * FROM corrections")
    assert row["corrected_at"] > "2026"
    correct(place, "bpm", 88.5)
    assert held(place)["bpm"] == 88.5
    correct(place, "bpm", None)
    assert held(place)["bpm"] is None
    place.change("DELETE FROM corrections")
    assert held(place) == before


@pytest.mark.parametrize(
    ("column", "value"),
    [("user_rating", "5"), ("bpm", 0), ("bpm", "fast"), ("category", None), ("tags", "dark"), ("tags", '{"a": 1}')],
)
def test_what_is_no_correction_is_refused(column: str, value: object, place: Workplace) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        correct(place, column, value)


def test_a_value_written_to_stems_by_hand_is_a_correction(place: Workplace) -> None:
    place.change("UPDATE stems SET bpm = 87, key = 'Am', category = 'texture', user_rating = 5")
    os.utime(place.input / "kick.wav", ns=(1, 1))
    assert place.run().inserted == 1
    after = held(place)
    assert (after["bpm"], after["key"], after["category"], after["user_rating"]) == (87, "Am", "texture", 5)
    assert after["corrected"].split() == ["bpm", "category", "key"]
    place.change("UPDATE stems SET bpm = 90")
    assert held(place)["bpm"] == 90


def test_corrections_survive_whatever_happens_to_the_file(place: Workplace) -> None:
    for column, value in (("bpm", 87), ("key", "Am"), ("category", "texture"), ("tags", '["mine"]')):
        correct(place, column, value)

    def check() -> None:
        row = held(place)
        assert [row[name] for name in ("bpm", "key", "category", "tags")] == [87, "Am", "texture", '["mine"]']

    check()
    path = place.input / "kick.wav"
    write_tone(path, hz=500)  # edited in place
    assert place.run().inserted == 1
    check()
    (place.input / "Snares").mkdir()
    path.rename(place.input / "Snares" / "sn.wav")
    assert place.run().moved == 1
    check()
    place.run()
    place.re_embed(max_windows=3)
    check()


def test_corrections_survive_quarantine(place: Workplace) -> None:
    correct(place, "key", "Am")
    path = place.input / "kick.wav"
    write_text(path)
    assert place.run().quarantined == 1
    assert plain_rows(place.database, "SELECT * FROM library") == []
    assert main([*place.flags(), "--restore-quarantine"]) == 0
    write_tone(path, hz=300)
    place.run()
    assert held(place)["key"] == "Am"


def test_queries_find_the_corrected_values_alone(place: Workplace) -> None:
    write_tone(place.input / "snare.wav", hz=700)
    place.run()
    place.change(
        "INSERT INTO corrections (stem_id, column_name, value)"
        " SELECT id, 'category', 'texture' FROM stems WHERE category = 'kick'"
    )
    query = "SELECT file_name FROM library WHERE category = '{}'"
    assert plain_rows(place.database, query.format("kick")) == []
    assert plain_rows(place.database, query.format("texture")) == [{"file_name": "kick.wav"}]
    assert plain_rows(place.database, query.format("snare")) == [{"file_name": "snare.wav"}]


# -- the view ---------------------------------------------------------------------------------------------------------


def library_of(database: Database, *originals: str) -> list[dict[str, Any]]:
    database.insert([record(original) for original in originals], PROVENANCE)
    return plain_rows(database.path, "SELECT * FROM library ORDER BY original_file")


def test_any_program_reads_the_view_whatever_the_names_are(database: Database) -> None:
    rows = library_of(database, LATIN_1, "/new/Amélie.wav", "/a b/c.d/e.wav", "/x.wav", r"C:\Music\kick.wav")
    assert [(row["original_file"], row["folder"], row["file_name"]) for row in rows] == [
        ("/a b/c.d/e.wav", "/a b/c.d", "e.wav"),
        ("/new/Amélie.wav", "/new", "Amélie.wav"),
        (r"/old/\xe9t\xe9/kick.wav", r"/old/\xe9t\xe9", "kick.wav"),
        ("/x.wav", "", "x.wav"),
        (r"C:\Music\kick.wav", r"C:\Music", "kick.wav"),
    ]
    assert plain_rows(database.path, "SELECT * FROM corrected_stems ORDER BY original_file")[0]["quality_ok"] == 1
    with pytest.raises(sqlite3.OperationalError, match="decode"):
        plain_rows(database.path, "SELECT original_file FROM stems")


def test_a_moved_row_is_printable_too(database: Database) -> None:
    (row,) = library_of(database, "/a.wav")
    database.take_over([(row["id"], LATIN_1)])
    assert plain_rows(database.path, "SELECT file_name, folder FROM library") == [
        {"file_name": "kick.wav", "folder": r"/old/\xe9t\xe9"}
    ]


def test_the_view_shows_each_number_of_features_and_no_blob(place: Workplace) -> None:
    (stem,), row = place.rows(), held(place)
    features = json.loads(stem["features"])
    numbers = {name: value for name, value in features.items() if isinstance(value, (int, float))}
    assert {name: row[name] for name in numbers} == numbers
    assert len(numbers) > 5
    assert not [name for name, value in row.items() if isinstance(value, bytes)]
    assert (place.wavs / row["wav"]).samefile(stem["path"])
    assert json.loads(row["quality_issues"]) == features["quality_issues"]
