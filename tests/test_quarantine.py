"""Broken files: moved whole, told about, repaired after a crash, and brought back."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import audio_files
from audio_files import copy_with_times, file_names, tree, write_cut_flac, write_nan, write_text, write_tone
from fake_clap import FakeClap
from patching import replace_name
from prepare_dataset_sql import DatasetPreparer, main
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import FormerRow, FoundFile, QuarantineEntry
from stem_dataset.errors import BrokenFile, MachineFault, NoSamples
from stem_dataset.quarantine import _claim_name, json_path_of, quarantine_file, read_entry
from workplace import Workplace

needs_links = pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
MTIME_NS = 1_600_000_000_123_456_789


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers' part run in this process, within reach of a test's faults."""
    audio_files.use_inline_workers(monkeypatch)


def found_file(path: Path, former: FormerRow | None = None) -> FoundFile:
    status = path.stat()
    return FoundFile(str(path), status.st_size, status.st_mtime_ns, former)


def quarantine(
    path: Path, folder: Path, error: type[Exception] = BrokenFile, former: FormerRow | None = None
) -> QuarantineEntry:
    """Quarantine `path` as a run would, for an error that was raised."""
    try:
        raise error("there is no audio in it")
    except error as raised:
        return quarantine_file(found_file(path, former), raised, folder, "run-1")


def broken(path: Path, text: str = "no audio at all") -> Path:
    """Write a broken file with a mtime of its own."""
    write_text(path, text)
    os.utime(path, ns=(MTIME_NS, MTIME_NS))
    return path


def real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def json_of(place: Workplace, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((place.quarantine / f"{name}.json").read_text())
    return content


def restore(place: Workplace) -> dict[str, int]:
    return dict(DatasetPreparer(place.config(), show_progress=False).restore_quarantine())


def noted(place: Workplace) -> list[str]:
    """Return the originals in the table `quarantined`, relative to the input."""
    rows = place.rows("SELECT original_file FROM quarantined ORDER BY 1")
    return [os.path.relpath(row["original_file"], real(place.input)) for row in rows]


# -- the name ---------------------------------------------------------------------------------------------------------


def test_name_tells_the_error_and_a_taken_one_is_counted_up(tmp_path: Path) -> None:
    paths = [broken(tmp_path / folder / "kick.wav", folder) for folder in "abc"]
    names = [Path(quarantine(path, tmp_path / "q", NoSamples).path).name for path in paths]
    assert names == ["ERROR_NoSamples_kick.wav", "ERROR_NoSamples_kick~2.wav", "ERROR_NoSamples_kick~3.wav"]
    assert [(tmp_path / "q" / name).read_text() for name in names] == ["a", "b", "c"]


@pytest.mark.parametrize("taken", ["file", "json", "dangling link"])
def test_name_is_taken_by_a_file_or_a_json_or_a_link(taken: str, tmp_path: Path) -> None:
    folder = tmp_path / "q"
    folder.mkdir()
    name = folder / "ERROR_BrokenFile_kick.wav"
    if taken == "dangling link":
        name.symlink_to("nowhere")
    else:
        (name if taken == "file" else json_path_of(name)).write_text("not ours")
    before = tree(folder)
    entry = quarantine(broken(tmp_path / "kick.wav"), folder)
    assert Path(entry.path).name == "ERROR_BrokenFile_kick~2.wav"
    assert {name: tree(folder)[name] for name in before} == before
    assert len(file_names(folder)) == 3


def test_a_hundred_broken_files_of_one_name_are_a_hundred_files(workplace: Workplace) -> None:
    for number in range(100):
        broken(workplace.input / f"{number:03}" / "kick.wav", f"broken {number}")
    summary = workplace.run()
    assert (summary.quarantined, summary.failed) == (100, 0)
    names = workplace.quarantined()
    assert len(names) == 100
    assert {"ERROR_LibsndfileError_kick.wav", "ERROR_LibsndfileError_kick~100.wav"} <= set(names)
    assert {(workplace.quarantine / name).read_text() for name in names} == {f"broken {n}" for n in range(100)}
    for name in names:
        entry = read_entry(workplace.quarantine / f"{name}.json")
        assert entry is not None
        number = int(Path(entry.original_file).parent.name)
        assert Path(entry.path).read_text() == f"broken {number}"
    assert len(noted(workplace)) == 100


def test_gaps_among_the_taken_names_harm_nothing(tmp_path: Path) -> None:
    taken = {number for number in range(1, 200) if number % 3}
    for number in taken:
        (tmp_path / f"ERROR_X_kick{f'~{number}' if number > 1 else ''}.wav").touch()
    before = set(os.listdir(tmp_path))
    for _ in range(300):
        path, json_file = _claim_name(tmp_path, "ERROR_X_", "kick.wav")
        json_file.close()
        assert path.name not in before
        path.touch()
    assert len(list(tmp_path.glob("ERROR_X_*.wav"))) == len(taken) + 300


def test_a_name_that_another_worker_takes_meanwhile_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lexists = os.path.lexists

    def then_it_is_taken(path: Path) -> bool:
        monkeypatch.setattr(os.path, "lexists", lexists)
        json_path_of(path).write_text("the other worker's")
        return lexists(path)

    monkeypatch.setattr(os.path, "lexists", then_it_is_taken)
    entry = quarantine(broken(tmp_path / "kick.wav"), tmp_path / "q")
    assert Path(entry.path).name == "ERROR_BrokenFile_kick~2.wav"
    assert (tmp_path / "q" / "ERROR_BrokenFile_kick.wav.json").read_text() == "the other worker's"


@pytest.mark.parametrize(
    "name",
    ["a" * 251 + ".wav", "é" * 125 + "a.wav", "€" * 83 + "ab.aif", "🥁" * 62 + "abc.wav", "abc" + "🥁" * 61 + ".flac"],
)
def test_a_name_of_255_bytes_is_cut_between_characters(name: str, tmp_path: Path) -> None:
    assert 250 < len(os.fsencode(name)) <= 255
    for folder in range(12):  # up to ~12: the counter grows, and the name gives way
        entry = quarantine(broken(tmp_path / str(folder) / name, f"{folder}"), tmp_path / "q")
        path = Path(entry.path)
        path.name.encode("utf-8")  # raises at half a character
        assert len(os.fsencode(json_path_of(path).name)) <= 255
        assert path.name.endswith((f"~{folder + 1}" if folder else "") + path.suffix)
        assert path.suffix == Path(name).suffix
        assert path.read_text() == f"{folder}"
        assert read_entry(json_path_of(path)) == entry
    assert len(os.listdir(tmp_path / "q")) == 24


names_of_a_file = (
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=300)
    | st.binary(max_size=300).map(lambda raw: os.fsdecode(raw.replace(b"/", b"").replace(b"\0", b"")))
).map(lambda stem: os.fsdecode(os.fsencode(stem)[:251]) + ".wav")


@given(names_of_a_file)
def test_every_name_gets_one_that_fits_and_begins_alike(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # tmp_path would be shared by all examples
        path, json_file = _claim_name(Path(folder), "ERROR_X_", name)
        json_file.close()
        assert os.listdir(folder) == [json_path_of(path).name]
        assert len(os.fsencode(json_path_of(path).name)) <= 255
        assert path.name.startswith("ERROR_X_")
        stem, suffix = os.path.splitext(path.name.removeprefix("ERROR_X_"))
        assert os.path.splitext(name)[0].startswith(stem)
        assert suffix == os.path.splitext(name)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not Unicode")
def test_a_name_that_is_no_text_goes_there_and_back(workplace: Workplace, inline: None) -> None:
    names = [os.fsdecode(b"caf\xe9.wav"), os.fsdecode(b"\xff" * 251 + b".wav"), os.fsdecode(b"\xe9\n.wav")]
    for name in names:
        broken(workplace.input / name, name.encode("utf-8", "backslashreplace").decode())
    before = tree(workplace.input)
    assert workplace.run().quarantined == 3
    assert os.fsdecode(b"ERROR_LibsndfileError_caf\xe9.wav") in workplace.quarantined()
    assert noted(workplace) == sorted(names, key=os.fsencode)
    assert workplace.run().found == 0
    assert restore(workplace) == {"restored": 3}
    assert tree(workplace.input) == before


# -- the JSON ---------------------------------------------------------------------------------------------------------


def test_json_tells_all_about_the_file_and_the_error(tmp_path: Path) -> None:
    path = broken(tmp_path / "in" / "kïck.wav", "twelve bytes")
    before = datetime.now(UTC)
    entry = quarantine(path, tmp_path / "q", NoSamples, FormerRow("0123456789abcdef", 4))
    content = json.loads((tmp_path / "q" / "ERROR_NoSamples_kïck.wav.json").read_text(encoding="ascii"))
    error = content.pop("error")
    assert (error["type"], error["message"]) == ("NoSamples", "there is no audio in it")
    assert error["traceback"].startswith("Traceback (most recent call last)")
    assert "test_quarantine.py" in error["traceback"]
    assert before <= datetime.fromisoformat(content.pop("quarantined_at")) <= datetime.now(UTC)
    assert content == {
        "path": str(tmp_path / "q" / "ERROR_NoSamples_kïck.wav"),
        "original_file": str(path),
        "size_bytes": 12,
        "mtime_ns": MTIME_NS,
        "sha256": hashlib.sha256(b"twelve bytes").hexdigest(),
        "run_id": "run-1",
        "link_target": None,
        "former": {"id": "0123456789abcdef", "user_rating": 4},
    }
    assert not path.exists()
    assert (tmp_path / "q" / "ERROR_NoSamples_kïck.wav").stat().st_mtime_ns == MTIME_NS
    assert read_entry(json_path_of(Path(entry.path))) == entry


def test_the_table_says_what_the_json_says(workplace: Workplace, inline: None) -> None:
    broken(workplace.input / "kick.wav")
    summary = workplace.run()
    content = json_of(workplace, "ERROR_LibsndfileError_kick.wav")
    (row,) = workplace.rows("SELECT * FROM quarantined")
    assert row == {
        "original_file": str(real(workplace.input) / "kick.wav"),
        "size_bytes": 15,
        "mtime_ns": MTIME_NS,
        "quarantine_path": str(real(workplace.quarantine) / "ERROR_LibsndfileError_kick.wav"),
        "error": f"LibsndfileError: {content['error']['message']}",
        "quarantined_at": content["quarantined_at"],
    }
    assert content["run_id"] == summary.run_id


def test_json_is_there_before_the_move_and_gone_if_the_move_fails(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = real(broken(workplace.input / "kick.wav"))
    seen: list[QuarantineEntry | None] = []

    def full_disk(source: Any, target: Any) -> None:
        seen.append(read_entry(json_path_of(Path(target))))
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    with monkeypatch.context() as fault:
        fault.setattr(os, "rename", full_disk)
        summary = workplace.run()
    assert (summary.failed, summary.quarantined) == (1, 0)
    assert [entry and entry.original_file for entry in seen] == [str(path)]
    assert path.read_text() == "no audio at all"
    assert file_names(workplace.quarantine) == []
    assert noted(workplace) == []
    assert workplace.run().quarantined == 1  # the next run tries again


def test_a_json_that_cannot_be_written_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = broken(tmp_path / "kick.wav")

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        quarantine(path, tmp_path / "q")
    assert path.read_text() == "no audio at all"
    assert os.listdir(tmp_path / "q") == []


# -- the move ---------------------------------------------------------------------------------------------------------


def no_rename_across(source: Any, target: Any) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))


def open_as_a_user(path: Any, mode: str = "r", **options: Any) -> Any:
    """Open as one who is not root must: what has no write permission is not written to."""
    if set(mode) & set("wa+") and os.path.exists(path) and not os.stat(path).st_mode & 0o222:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return open(path, mode, **options)


def test_across_file_systems_bytes_and_mtime_stay_and_the_source_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broken(tmp_path / "kick.wav", "x" * 100_000)
    path.chmod(0o444)  # as many libraries come
    monkeypatch.setattr(os, "rename", no_rename_across)
    monkeypatch.setattr("stem_dataset.quarantine.open", open_as_a_user, raising=False)
    copy = Path(quarantine(path, tmp_path / "q").path)
    assert not path.exists()
    assert copy.read_text() == "x" * 100_000
    assert copy.stat().st_mtime_ns == MTIME_NS
    assert file_names(tmp_path / "q") == [copy.name, copy.name + ".json"]


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`'s, removed afterwards."""
    shared_memory = Path("/dev/shm")
    if not os.access(shared_memory, os.W_OK) or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a writable /dev/shm that is another file system than the temporary folder's")
    with tempfile.TemporaryDirectory(dir=shared_memory) as folder:
        yield Path(folder)


def test_across_two_real_file_systems_there_and_back(
    workplace: Workplace, inline: None, other_file_system: Path
) -> None:
    broken(workplace.input / "sub" / "kick.wav", "x" * 100_000)
    before = tree(workplace.input)
    config = workplace.config(quarantine=other_file_system / "q", stems=other_file_system / "wavs")
    preparer = DatasetPreparer(config, lambda *_: FakeClap(), show_progress=False)
    assert preparer.run().quarantined == 1
    moved = other_file_system / "q" / "ERROR_LibsndfileError_kick.wav"
    assert moved.read_text() == "x" * 100_000
    assert moved.stat().st_mtime_ns == MTIME_NS
    assert "sub/kick.wav" not in tree(workplace.input)
    assert dict(DatasetPreparer(config).restore_quarantine()) == {"restored": 1}
    assert tree(workplace.input) == before
    assert file_names(other_file_system / "q") == []


@pytest.mark.parametrize("damage", ["other bytes", "cut off", "error"])
def test_a_copy_that_differs_is_refused_and_nothing_is_lost(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broken(tmp_path / "kick.wav", "x" * 100)

    def bad_copy(source: Any, target: Any) -> None:
        Path(target).write_text("y" * 100 if damage == "other bytes" else "x" * 50)
        if damage == "error":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", no_rename_across)
    monkeypatch.setattr(shutil, "copy2", bad_copy)
    monkeypatch.setattr(shutil, "copyfile", bad_copy)
    with pytest.raises(OSError, match="No space left" if damage == "error" else "copy in quarantine differs"):
        quarantine(path, tmp_path / "q")
    assert path.read_text() == "x" * 100
    assert path.stat().st_mtime_ns == MTIME_NS
    assert os.listdir(tmp_path / "q") == []


def never_onto(path: Path, move: Callable[[Any, Any], None], error: OSError) -> Callable[[Any, Any], None]:
    """Return `move`, but raising `error` where its target is `path`."""

    def moving(source: Any, target: Any) -> None:
        if os.fspath(target) == str(path):
            raise error
        move(source, target)

    return moving


@pytest.fixture
def read_only(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A broken file on what behaves like a read-only file system (root may write where permissions forbid it)."""
    path = real(broken(workplace.input / "kick.wav"))
    fault = OSError(errno.EROFS, "Read-only file system", str(path))
    audio_files.fail_for(monkeypatch, os, "rename", fault, path)
    audio_files.fail_for(monkeypatch, Path, "unlink", fault, path)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, never_onto(path, getattr(os, name), fault))
    return path


def test_a_source_that_cannot_be_removed_is_copied_and_skipped_until_it_changes(
    workplace: Workplace, inline: None, read_only: Path
) -> None:
    assert workplace.run().quarantined == 1
    copy = workplace.quarantine / "ERROR_LibsndfileError_kick.wav"
    assert copy.read_bytes() == read_only.read_bytes()
    assert noted(workplace) == ["kick.wav"]
    for _ in range(2):
        again = workplace.run()
        assert (again.already_done, again.quarantined) == (1, 0)
    read_only.write_text("other text")
    changed = workplace.run()
    assert (changed.already_done, changed.quarantined) == (0, 1)
    assert workplace.quarantined() == [copy.name, "ERROR_LibsndfileError_kick~2.wav"]
    assert workplace.run().already_done == 1
    write_tone(read_only)
    assert workplace.run().inserted == 1
    last = workplace.run()
    assert (last.already_done, last.inserted) == (1, 0)


def test_restoring_a_source_that_was_kept_leaves_it_and_forgets_the_copy(
    workplace: Workplace, inline: None, read_only: Path
) -> None:
    workplace.run()
    before = tree(workplace.input)
    assert restore(workplace) == {"restored": 1}
    assert tree(workplace.input) == before
    assert file_names(workplace.quarantine) == []
    assert noted(workplace) == []


def test_a_time_that_sqlite_cannot_hold_stops_no_run(workplace: Workplace, inline: None) -> None:
    write_tone(workplace.input / "good.wav")
    broken(workplace.input / "broken.wav")
    year_2400_ns = 13_569_465_600_123_456_789
    for path in workplace.input.iterdir():
        os.utime(path, ns=(0, year_2400_ns))
        if path.stat().st_mtime_ns != year_2400_ns:
            pytest.skip("this file system's times end before the year 2400")
    before = tree(workplace.input)
    first = workplace.run()
    assert (first.inserted, first.quarantined, first.failed) == (1, 1, 0)
    assert workplace.run().already_done == 1
    assert restore(workplace) == {"restored": 1}
    assert tree(workplace.input) == before


# -- links ------------------------------------------------------------------------------------------------------------


@needs_links
@pytest.mark.parametrize("link_text", ["relative", "absolute"])
def test_a_broken_link_is_quarantined_as_a_link_and_its_target_is_not_touched(
    link_text: str, workplace: Workplace, inline: None
) -> None:
    outside = broken(workplace.folder / "elsewhere" / "snare.wav")
    text = "../../../elsewhere/snare.wav" if link_text == "relative" else str(outside)
    link = workplace.input / "sub" / "deep" / "linked.wav"  # not as deep as the quarantine folder
    link.parent.mkdir(parents=True)
    os.symlink(text, link)
    before, outside_before = tree(workplace.input), audio_files.everything(outside.parent)
    assert workplace.run().quarantined == 1
    assert not os.path.lexists(link)
    moved = workplace.quarantine / "ERROR_LibsndfileError_linked.wav"
    assert moved.is_symlink()
    assert moved.read_bytes() == outside.read_bytes()  # it still leads there
    assert json_of(workplace, moved.name)["link_target"] == text
    assert workplace.run().found == 0
    assert restore(workplace) == {"restored": 1}
    assert tree(workplace.input) == before
    assert audio_files.everything(outside.parent) == outside_before
    assert file_names(workplace.quarantine) == []


@needs_links
def test_a_link_whose_target_has_gone_since_is_restored_too(workplace: Workplace, inline: None) -> None:
    outside = broken(workplace.folder / "snare.wav")
    os.symlink("../snare.wav", workplace.input / "linked.wav")
    workplace.run()
    outside.unlink()
    assert restore(workplace) == {"restored": 1}
    assert os.readlink(workplace.input / "linked.wav") == "../snare.wav"


@needs_links
def test_a_link_that_a_read_only_library_kept_is_forgotten_by_restoring(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(workplace.folder / "snare.wav")
    link = real(workplace.input) / "linked.wav"
    link.symlink_to("../snare.wav")
    with monkeypatch.context() as read_only:
        audio_files.fail_for(read_only, Path, "unlink", OSError(errno.EROFS, "Read-only file system"), link)
        assert workplace.run().quarantined == 1
    assert link.is_symlink()
    assert restore(workplace) == {"restored": 1}
    assert os.readlink(link) == "../snare.wav"
    assert file_names(workplace.quarantine) == []
    assert noted(workplace) == []


@needs_links
def test_restoring_a_link_goes_on_where_it_was_killed(workplace: Workplace, inline: None) -> None:
    broken(workplace.folder / "snare.wav")
    link = workplace.input / "linked.wav"
    link.symlink_to("../snare.wav")
    workplace.run()
    entry = read_entry(workplace.quarantine / "ERROR_LibsndfileError_linked.wav.json")
    assert entry is not None
    database = Database(workplace.database)
    database.forget_quarantined(entry)
    database.close()
    link.symlink_to("../snare.wav")  # killed here, before the other link goes
    assert restore(workplace) == {"restored": 1}
    assert os.readlink(link) == "../snare.wav"
    assert file_names(workplace.quarantine) == []


@needs_links
def test_another_link_in_the_place_of_a_quarantined_one_stays(workplace: Workplace, inline: None) -> None:
    broken(workplace.folder / "snare.wav")
    link = workplace.input / "linked.wav"
    link.symlink_to("../snare.wav")
    workplace.run()
    link.symlink_to("elsewhere.wav")
    assert restore(workplace) == {"left, since its place is taken": 1}
    assert os.readlink(link) == "elsewhere.wav"
    assert len(file_names(workplace.quarantine)) == 2


# -- after a crash ----------------------------------------------------------------------------------------------------


def crashed(place: Workplace, path: Path, former: FormerRow | None = None) -> QuarantineEntry:
    """Leave what a run leaves that quarantined `path` and was killed before the database heard of it."""
    return quarantine(real(path), real(place.folder) / "out" / "quarantine", former=former)


def test_killed_before_the_move_the_json_goes_and_the_file_is_processed_anew(
    workplace: Workplace, inline: None
) -> None:
    write_tone(workplace.input / "good.wav")
    broken(workplace.input / "broken.wav")
    before = tree(workplace.input)
    for name in ("good.wav", "broken.wav"):
        entry = crashed(workplace, workplace.input / name)
        os.rename(entry.path, entry.original_file)
    assert tree(workplace.input) == before
    summary = workplace.run()
    assert (summary.inserted, summary.quarantined) == (1, 1)
    assert workplace.quarantined() == ["ERROR_LibsndfileError_broken.wav"]
    assert json_of(workplace, "ERROR_LibsndfileError_broken.wav")["run_id"] == summary.run_id
    assert len(file_names(workplace.quarantine)) == 2


def test_killed_after_the_move_the_verdict_is_entered_and_the_row_dropped(workplace: Workplace, inline: None) -> None:
    path = write_tone(workplace.input / "kick.wav")
    workplace.run()
    (row,) = workplace.rows()
    wav = Path(row["path"])
    assert wav.is_file()
    broken(path)
    crashed(workplace, path, FormerRow(row["id"], None))
    summary = workplace.run()
    assert (summary.found, summary.inserted, summary.quarantined) == (0, 0, 0)
    assert noted(workplace) == ["kick.wav"]
    assert workplace.rows() == []
    assert not wav.exists()
    assert workplace.quarantined() == ["ERROR_BrokenFile_kick.wav"]


def test_a_verdict_older_than_the_row_drops_nothing(workplace: Workplace, inline: None) -> None:
    """The database was moved away and began anew, say, and the quarantine folder was not."""
    path = broken(workplace.input / "kick.wav")
    crashed(workplace, path)
    aside = Path(shutil.move(workplace.quarantine, workplace.folder / "aside"))
    write_tone(path)
    workplace.run()
    for quarantined in aside.iterdir():
        shutil.move(quarantined, workplace.quarantine)
    assert workplace.run().already_done == 1
    assert workplace.originals() == ["kick.wav"]


def test_killed_between_copy_and_unlink_the_source_goes(workplace: Workplace, inline: None) -> None:
    path = broken(workplace.input / "kick.wav")
    kept = copy_with_times(path, workplace.folder / "kept")
    entry = crashed(workplace, path)
    copy_with_times(kept, path)
    summary = workplace.run()
    assert (summary.found, summary.quarantined) == (0, 0)
    assert not path.exists()
    assert Path(entry.path).read_bytes() == kept.read_bytes()
    assert noted(workplace) == ["kick.wav"]


@pytest.mark.parametrize("change", ["other bytes", "other mtime"])
def test_killed_between_copy_and_unlink_a_source_that_changed_since_stays(
    change: str, workplace: Workplace, inline: None
) -> None:
    path = broken(workplace.input / "kick.wav")
    kept = copy_with_times(path, workplace.folder / "kept")
    entry = crashed(workplace, path)
    copy_with_times(kept, path)
    if change == "other bytes":
        path.write_text("YES audio at all"[: path.stat().st_size])
        os.utime(path, ns=(MTIME_NS, MTIME_NS))
    else:
        os.utime(path, ns=(1, 1))
    content = path.read_bytes()
    workplace.run()
    remaining = [path] if path.exists() else [workplace.quarantine / "ERROR_LibsndfileError_kick.wav"]
    assert remaining[0].read_bytes() == content
    assert Path(entry.path).read_bytes() == kept.read_bytes()


@needs_links
def test_killed_between_the_two_links_nothing_is_lost(workplace: Workplace, inline: None) -> None:
    outside = broken(workplace.folder / "snare.wav")
    link = workplace.input / "linked.wav"
    os.symlink("../snare.wav", link)
    found = found_file(link)
    entry = quarantine_file(
        dataclasses.replace(found, path=str(real(workplace.input) / "linked.wav")),
        BrokenFile("no"),
        real(workplace.folder) / "out" / "quarantine",
        "run-1",
    )
    os.symlink("../snare.wav", link)
    workplace.run()
    assert outside.read_text() == "no audio at all"
    assert noted(workplace) == ["linked.wav"]
    workplace.run()
    restore(workplace)
    assert os.readlink(link) == "../snare.wav"
    assert entry.link_target == "../snare.wav"


def test_a_cut_off_json_without_its_file_is_removed(workplace: Workplace, inline: None) -> None:
    path = broken(workplace.input / "kick.wav")
    workplace.quarantine.mkdir(parents=True)
    for number, content in enumerate([b"", b'{"path": "/x/y', b"\xff\xfe", b"[]", b"null", b"{}"]):
        (workplace.quarantine / f"ERROR_X_{number}.wav.json").write_bytes(content)
    assert workplace.run().quarantined == 1
    assert file_names(workplace.quarantine) == [
        "ERROR_LibsndfileError_kick.wav",
        "ERROR_LibsndfileError_kick.wav.json",
    ]
    assert not path.exists()


def test_a_json_that_is_not_ours_beside_a_file_harms_nothing(workplace: Workplace, inline: None) -> None:
    workplace.quarantine.mkdir(parents=True)
    for number, content in enumerate([b"", b"null", b'{"former": null}', b'{"former": {"id": 1}}']):
        (workplace.quarantine / f"ERROR_X_{number}.wav").write_bytes(b"audio")
        (workplace.quarantine / f"ERROR_X_{number}.wav.json").write_bytes(content)
    (workplace.quarantine / "ERROR_alone.wav").write_bytes(b"audio")
    before = {name: content for name, content in tree(workplace.quarantine).items() if name.startswith("ERROR_")}
    assert workplace.run().found == 0
    assert restore(workplace) == {"without a file or a readable JSON": 4}
    after = tree(workplace.quarantine)
    assert {name: after.get(name) for name in before} == before


# -- a file that had a row --------------------------------------------------------------------------------------------


def test_a_row_s_id_and_rating_outlive_its_file_s_time_in_quarantine(workplace: Workplace, inline: None) -> None:
    path = write_tone(workplace.input / "kick.wav", hz=300)
    write_tone(workplace.input / "other.wav", hz=500)
    workplace.run()
    with Database(workplace.database).connection as connection:
        connection.execute("UPDATE stems SET user_rating = 4 WHERE original_file LIKE '%kick.wav'")
    before = {os.path.basename(row["original_file"]): row for row in workplace.rows()}

    broken(path)
    assert workplace.run().quarantined == 1
    assert workplace.originals() == ["other.wav"]
    assert not Path(before["kick.wav"]["path"]).exists()
    former = json_of(workplace, "ERROR_LibsndfileError_kick.wav")["former"]
    assert former == {"id": before["kick.wav"]["id"], "user_rating": 4}

    assert restore(workplace) == {"restored": 1}
    assert path.read_text() == "no audio at all"
    assert workplace.run().quarantined == 1  # still broken: not forgotten on the second round either
    assert restore(workplace) == {"restored": 1}
    write_tone(path, hz=700)
    assert workplace.run().inserted == 1
    after = {os.path.basename(row["original_file"]): row for row in workplace.rows()}
    assert (after["kick.wav"]["id"], after["kick.wav"]["user_rating"]) == (before["kick.wav"]["id"], 4)
    assert after["kick.wav"]["samples_sha256"] != before["kick.wav"]["samples_sha256"]
    assert Path(after["kick.wav"]["path"]).is_file()
    assert after["other.wav"] == before["other.wav"]
    assert workplace.rows("SELECT * FROM restored") == []


# -- restoring --------------------------------------------------------------------------------------------------------


def write_every_kind_of_broken_file(place: Workplace) -> int:
    """Fill the input with broken files of each kind, and return their number."""
    folder = place.input / "deep down" / "ünder"
    folder.mkdir(parents=True)
    write_text(folder / "text.wav")
    write_text(place.input / "text.wav", "another of the same name")
    write_text(folder / "empty.wav", "")
    write_cut_flac(folder / "cut.flac")
    write_nan(folder / "nan.wav")
    write_tone(folder / "no_samples.wav", seconds=0)
    write_tone(folder / "long.wav", seconds=3)
    write_text(folder / ("n" * 251 + ".mp3"))
    for number, path in enumerate(sorted(place.input.rglob("*.*"))):
        os.utime(path, ns=(MTIME_NS + number, MTIME_NS + number))
    if os.name == "posix":
        os.symlink(broken(place.folder / "outside.wav"), folder / "linked.wav")
    return len([path for path in place.input.rglob("*") if not path.is_dir()])


def test_restore_puts_everything_back_byte_for_byte(workplace: Workplace, inline: None) -> None:
    count = write_every_kind_of_broken_file(workplace)
    write_tone(workplace.input / "good.wav")
    before = tree(workplace.input)
    summary = workplace.run(max_duration_s=2.0)
    assert (summary.quarantined, summary.inserted) == (count, 1)
    kinds = {name.split("_")[1] for name in workplace.quarantined()}
    assert kinds == {"LibsndfileError", "NotFinite", "NoSamples", "TooLong"}
    assert len([name for name in tree(workplace.input) if name.endswith((".wav", ".mp3", ".flac"))]) == 1
    shutil.rmtree(workplace.input / "deep down")  # empty now, and somebody tidied up
    assert restore(workplace) == {"restored": count}
    assert tree(workplace.input) == before
    assert file_names(workplace.quarantine) == []
    assert noted(workplace) == []
    assert restore(workplace) == {}
    assert tree(workplace.input) == before
    assert workplace.run(max_duration_s=2.0).quarantined == count


def test_restore_never_goes_over_another_file(workplace: Workplace, inline: None) -> None:
    path = broken(workplace.input / "kick.wav")
    other = broken(workplace.input / "snare.wav")
    workplace.run()
    write_text(path, "mine")
    before = tree(workplace.input)
    assert restore(workplace) == {"left, since its place is taken": 1, "restored": 1}
    assert {**before, "snare.wav": ("file", b"no audio at all", MTIME_NS)} == tree(workplace.input)
    assert workplace.quarantined() == ["ERROR_LibsndfileError_kick.wav"]
    path.unlink()
    assert restore(workplace) == {"restored": 1}
    assert path.read_text() == other.read_text() == "no audio at all"


def test_restore_goes_on_where_it_was_killed(workplace: Workplace, inline: None) -> None:
    path = broken(workplace.input / "kick.wav")
    before = tree(workplace.input)
    workplace.run()
    quarantined = workplace.quarantine / "ERROR_LibsndfileError_kick.wav"

    def forget() -> None:
        entry = read_entry(json_path_of(quarantined))
        assert entry is not None
        database = Database(workplace.database)
        database.forget_quarantined(entry)
        database.close()

    forget()  # killed here ...
    assert restore(workplace) == {"restored": 1}
    assert tree(workplace.input) == before
    workplace.run()
    forget()
    os.rename(quarantined, path)  # ... or here, before the JSON goes
    assert restore(workplace) == {}
    assert tree(workplace.input) == before
    assert file_names(workplace.quarantine) == []
    assert workplace.run().quarantined == 1


def test_restore_that_fails_on_one_file_loses_nothing(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(workplace.input / "a.wav")
    broken(workplace.input / "b.wav")
    before = tree(workplace.input)
    workplace.run()
    first = real(workplace.quarantine / "ERROR_LibsndfileError_a.wav")
    with monkeypatch.context() as fault:
        for path in (first, workplace.quarantine / first.name):
            audio_files.fail_for(fault, os, "rename", OSError(errno.ENOSPC, "No space left on device"), path)
        assert main([*workplace.flags(), "--restore-quarantine"]) != 0
    message = capsys.readouterr().err
    assert "No space left on device" in message
    assert "a fault of this program" not in message
    assert first.read_text() == "no audio at all"
    assert main([*workplace.flags(), "--restore-quarantine"]) == 0
    assert tree(workplace.input) == before


def test_restore_from_the_command_line_says_what_it_did(
    workplace: Workplace, inline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.wav", "b.wav"):
        broken(workplace.input / name)
    workplace.run()
    write_text(workplace.input / "b.wav", "mine")
    capsys.readouterr()
    assert main([*workplace.flags(), "--restore-quarantine"]) == 0
    shown = capsys.readouterr().err
    assert "1 restored" in shown
    assert "1 left, since its place is taken" in shown
    assert "b.wav: not restored" in shown


# -- the odd moments --------------------------------------------------------------------------------------------------


def test_a_move_whose_sync_fails_keeps_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = broken(tmp_path / "kick.wav")
    folder = tmp_path / "q"

    def no_sync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "this file system syncs no folders")

    monkeypatch.setattr(os, "fsync", no_sync)
    entry = quarantine(path, folder)
    assert not path.exists()
    assert read_entry(json_path_of(Path(entry.path))) == entry


def test_a_failure_after_the_move_keeps_the_json_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = broken(tmp_path / "kick.wav")

    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, "boom")

    replace_name(monkeypatch, "sync_folder", fail)
    with pytest.raises(OSError, match="boom"):
        quarantine(path, tmp_path / "q")
    assert not path.exists()
    assert read_entry(tmp_path / "q" / "ERROR_BrokenFile_kick.wav.json") is not None


def test_a_file_still_being_written_is_not_quarantined(tmp_path: Path) -> None:
    path = broken(tmp_path / "kick.wav")
    found = found_file(path)
    with open(path, "a") as writer:
        writer.write("the rest of it")
    with pytest.raises(MachineFault, match="changed after it was found"):
        quarantine_file(found, BrokenFile("half a file"), tmp_path / "q", "run-1")
    assert path.exists()
    assert list((tmp_path / "q").iterdir()) == []


@needs_links
@pytest.mark.parametrize("became", ["fifo", "device"])
def test_what_is_no_file_any_more_is_neither_waited_for_nor_moved(became: str, tmp_path: Path) -> None:
    path = broken(tmp_path / "kick.wav")
    found = found_file(path)
    path.unlink()
    if became == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    before = path.lstat()
    # Whoever waits for a writer gets one, so that this test fails instead of hanging.
    writer = threading.Timer(10, lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)))
    writer.start()
    with pytest.raises(MachineFault, match="no longer a regular file"):
        quarantine_file(found, BrokenFile("it was one"), tmp_path / "q", "run-1")
    writer.cancel()
    assert path.lstat() == before
    assert os.listdir(tmp_path / "q") == []


@needs_links
def test_a_broken_link_in_a_read_only_library_is_entered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = broken(tmp_path / "outside.wav")
    link = tmp_path / "stems" / "link.wav"
    link.parent.mkdir()
    link.symlink_to(outside)
    audio_files.fail_for(monkeypatch, Path, "unlink", OSError(errno.EROFS, "Read-only file system"), link)
    entry = quarantine(link, tmp_path / "q")
    assert link.is_symlink()
    assert read_entry(json_path_of(Path(entry.path))) == entry


def test_half_a_copy_of_a_killed_run_is_removed_by_the_next(workplace: Workplace, inline: None) -> None:
    workplace.quarantine.mkdir(parents=True)
    half = workplace.quarantine / ".4711-0123456789abcdef.tmp"
    half.write_bytes(b"half")
    workplace.run()
    assert not half.exists()


def test_half_a_copy_of_a_killed_restore_is_removed_by_the_next_start(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    broken(workplace.input / "kick.wav")
    workplace.run()
    with monkeypatch.context() as fault:
        fault.setattr(os, "rename", no_rename_across)
        fault.setattr(shutil, "copystat", killed)
        fault.setattr(Path, "unlink", lambda *_, **__: None)  # the killed clean up nothing
        with pytest.raises(Killed):
            restore(workplace)
    assert len(tree(workplace.input)) == 1
    workplace.run()
    assert tree(workplace.input) == {}
