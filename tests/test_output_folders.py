"""The README in each folder that the program creates, which marks it as one of its own."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

import audio_files
from audio_files import write_text, write_tone
from prepare_dataset_sql import DatasetPreparer, main
from stem_dataset.clap.checkpoints import ModelCache
from stem_dataset.output_folders import MARKER, README_NAME
from workplace import Workplace


@pytest.fixture
def quick(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A workplace with one good and one broken file, whose runs need no worker process."""
    audio_files.use_inline_workers(monkeypatch)
    write_tone(workplace.input / "kick.wav")
    write_text(workplace.input / "broken.wav")
    return workplace


def is_output_folder(folder: Path) -> bool:
    """Return whether the README in `folder` marks it as an output folder."""
    readme = folder / README_NAME
    return readme.is_file() and readme.read_text(encoding="ascii").startswith(f"{MARKER}\n")


def readme_of(folder: Path) -> str:
    return (folder / README_NAME).read_text(encoding="ascii")


def test_each_folder_that_a_run_creates_says_what_it_is(quick: Workplace) -> None:
    quick.run()
    words = {
        quick.database.parent: "SQLite database",
        quick.wavs: "Standardised WAVs",
        quick.quarantine: "--restore-quarantine",
    }
    for folder, text in words.items():
        assert readme_of(folder).startswith(f"{MARKER}\n\n")
        assert text in readme_of(folder)
        assert is_output_folder(folder)
    assert MARKER.startswith("prepare_dataset_sql: ")
    assert not is_output_folder(quick.input)
    assert not is_output_folder(quick.wavs / "00")


def test_a_folder_of_the_user_s_that_holds_the_database_is_not_marked(quick: Workplace) -> None:
    quick.database.parent.mkdir()
    quick.run()
    assert not is_output_folder(quick.database.parent)
    assert is_output_folder(quick.wavs)


def test_a_folder_that_lacks_its_readme_gets_it_and_keeps_it(quick: Workplace) -> None:
    quick.run()
    text = readme_of(quick.wavs)
    (quick.wavs / README_NAME).unlink()
    (quick.quarantine / README_NAME).write_text("")  # as a full disk leaves it
    quick.run()
    assert readme_of(quick.wavs) == text
    assert is_output_folder(quick.quarantine)
    before = (quick.wavs / README_NAME).stat().st_mtime_ns
    quick.run()
    assert (quick.wavs / README_NAME).stat().st_mtime_ns == before


def test_a_readme_of_the_user_s_is_not_touched(quick: Workplace) -> None:
    quick.wavs.mkdir(parents=True)
    (quick.wavs / README_NAME).write_text("my own notes\n")
    quick.run()
    assert readme_of(quick.wavs) == "my own notes\n"
    assert not is_output_folder(quick.wavs)


def test_a_dry_run_writes_no_readme(quick: Workplace) -> None:
    assert main([*quick.flags(), "--dry-run"]) == 0
    assert list(quick.folder.iterdir()) == [quick.input]


def test_without_wavs_the_other_folders_are_marked(quick: Workplace) -> None:
    quick.run(stems=None)
    assert is_output_folder(quick.quarantine)
    assert not quick.wavs.exists()


def test_restoring_the_quarantine_leaves_the_readme(quick: Workplace) -> None:
    quick.run()
    assert dict(DatasetPreparer(quick.config()).restore_quarantine()) == {"restored": 1}
    assert is_output_folder(quick.quarantine)
    assert sorted(path.name for path in quick.input.iterdir()) == ["broken.wav", "kick.wav"]


def test_a_disk_without_room_for_a_readme_stops_no_run(quick: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full_disk(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name == README_NAME:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full_disk)
    assert quick.run().inserted == 1
    assert not is_output_folder(quick.wavs)


def test_nothing_of_another_run_inside_the_input_is_a_stem(quick: Workplace, tmp_path: Path) -> None:
    quick.run()
    other = Workplace(tmp_path / "other")
    shutil.copytree(quick.folder / "out", other.input)
    summary = other.run()
    assert (summary.inserted, summary.quarantined, summary.failed) == (0, 0, 0)
    assert summary.ignored["output folder of another run"] == 2
    assert other.originals() == []


def test_the_model_cache_says_that_it_can_be_removed(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache")
    cache.keep(cache.folder / "0123456789ab" / "texts" / "a", b"content")
    assert "You can remove this folder" in readme_of(cache.folder)
    assert is_output_folder(cache.folder)
