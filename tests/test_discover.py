"""What the walk finds, what it leaves aside and why, and that no name harms it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import audio_files
from audio_files import write_text, write_tone
from hostile import NAMES, NAMES_OF_LINUX
from prepare_dataset_sql import main
from stem_dataset.discover import READABLE_SUFFIXES, WalkRules, discover
from stem_dataset.files import is_inside
from stem_dataset.logs import printable
from stem_dataset.quarantine import read_entry
from stem_dataset.summary import Summary
from workplace import REPOSITORY, Workplace

needs_posix = pytest.mark.skipif(os.name != "posix", reason="FIFOs, sockets and links of POSIX")


def walk(root: Path, *own_folders: Path, **rules: Any) -> tuple[list[str], Summary]:
    """Return the files found, relative to `root`, and the account, its sum checked as at a run's end."""
    summary = Summary("run")
    real_root = os.path.realpath(root)
    found = list(discover(WalkRules(real_root, frozenset(map(os.path.realpath, own_folders)), **rules), summary))
    summary.left = len(found)
    assert summary.sum_closes, summary
    return [os.path.relpath(file.path, real_root) for file in found], summary


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


# -- what is found ----------------------------------------------------------------------------------------------------


def test_files_come_sorted_and_always_in_the_same_order(tmp_path: Path) -> None:
    names = ["b.wav", "a.wav", "Z.wav", "z/2.wav", "z/1.wav", "c/d/e.wav", "c/x.wav", "a b/1.wav", "10.wav", "9.wav"]
    touch(tmp_path, *names)
    first, _ = walk(tmp_path)
    assert first == [
        *("10.wav", "9.wav", "Z.wav", "a.wav", "b.wav"),
        *("a b/1.wav", "c/x.wav", "c/d/e.wav", "z/1.wav", "z/2.wav"),
    ]
    other = tmp_path / "other"
    touch(other, *reversed(names))
    assert walk(other)[0] == first


def test_found_file_carries_absolute_path_size_and_mtime(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    (found,) = discover(WalkRules(os.path.realpath(tmp_path)), Summary("run"))
    assert (found.path, found.size_bytes, found.mtime_ns) == (os.path.realpath(path), 5, 1_700_000_000_123_456_789)


STRACED = """
import os, sys
from stem_dataset.discover import WalkRules, discover
from stem_dataset.summary import Summary
os.path.exists("/begins here")
found = list(discover(WalkRules(sys.argv[1]), Summary("run")))
os.path.exists("/ends here")
print(len(found))
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="counts the system's calls with strace")
def test_the_walk_asks_the_system_once_of_each_file_and_lists_each_folder_once(tmp_path: Path) -> None:
    root = tmp_path / "in"
    touch(root, *(f"{folder}/{number}.wav" for folder in ("a", "a/b", "c") for number in range(20)))
    command = ["strace", "-f", "-y", "-o", str(tmp_path / "calls"), sys.executable, "-c", STRACED, str(root)]
    walked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if walked.returncode and "PTRACE" in walked.stderr:
        pytest.skip("no process may be traced here")
    assert walked.stdout == "60\n", walked.stderr
    calls = (tmp_path / "calls").read_text(encoding="utf-8").partition('"/begins here"')[2].partition('"/ends here"')[0]
    assert len(re.findall(r"\.wav\b", calls)) == len(re.findall(r'stat\w*\(.*\.wav"', calls)) == 60
    assert len(re.findall(r"\bopen\w*\(", calls)) == 4  # the folders


class Entry:
    """An entry of a folder that remembers what is asked of it; the system said no more of it than its name and type."""

    def __init__(self, entry: os.DirEntry[str], asked: list[str]) -> None:
        self._entry, self._asked = entry, asked

    def __getattr__(self, name: str) -> Any:
        if name == "stat":
            self._asked.append(self._entry.name)
        return getattr(self._entry, name)


def test_a_file_is_asked_for_its_status_once_and_only_through_its_folder_s_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *(f"{folder}/{number}.wav" for folder in "ab" for number in range(5)), "readme.txt")
    asked: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: [Entry(entry, asked) for entry in scandir(folder)])
    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, lambda path, *_, **__: pytest.fail(f"a second look at {path}"))
    found = list(discover(WalkRules(str(tmp_path)), Summary("run")))
    monkeypatch.undo()
    assert len(found) == 10
    assert sorted(asked) == sorted(os.path.basename(file.path) for file in found)


@pytest.mark.parametrize("suffix", sorted(READABLE_SUFFIXES))
def test_every_readable_suffix_is_taken_in_upper_and_lower_case(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}")
    assert walk(tmp_path)[0] == [f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}"]


# -- what is left aside -----------------------------------------------------------------------------------------------


def test_every_reason_to_ignore_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "good.wav", ".hidden.wav", "._good.wav", ".git/inside.wav", "sub/._x.wav", "sub/.DS_Store")
    touch(tmp_path, "cover.jpg", "README", "x.wav.part", "Thumbs.db")
    (tmp_path / "folder.wav").mkdir()
    found, summary = walk(tmp_path)
    assert found == ["good.wav"]
    assert summary.ignored == {
        "hidden": 3,  # the hidden folder counts once, and is not entered
        "resource fork": 2,
        "not audio": 4,
        "folder with an audio name": 1,
    }
    assert "4 not audio" in str(summary)


def test_a_folder_with_an_audio_name_is_entered(tmp_path: Path) -> None:
    touch(tmp_path, "drums.wav/kick.wav")
    found, summary = walk(tmp_path)
    assert found == ["drums.wav/kick.wav"]
    assert summary.ignored == {"folder with an audio name": 1}


@needs_posix
def test_what_would_block_or_never_end_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo.wav")
    os.symlink("/dev/zero", tmp_path / "zero.wav")
    os.symlink("fifo.wav", tmp_path / "link_to_fifo.wav")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.wav")
        found, summary = walk(tmp_path)
    assert found == []
    assert summary.ignored == {"not a regular file": 4}


@needs_posix
def test_links_lead_to_no_file_twice_and_to_no_loop(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "outside"
    touch(root, "kick.wav", "sub/snare.wav")
    touch(outside, "far.wav")
    os.symlink("kick.wav", root / "to_inside.wav")
    os.symlink(root / "sub" / "snare.wav", root / "to_inside_absolute.wav")
    os.symlink("..", root / "sub" / "loop.wav")
    os.symlink(outside, root / "to_folder.wav")
    os.symlink("nowhere.wav", root / "dangling.wav")
    os.symlink("itself.wav", root / "itself.wav")
    found, summary = walk(root)
    assert found == ["kick.wav", "sub/snare.wav"]
    assert summary.ignored == {"link to a file inside": 2, "linked folder": 2, "dangling link": 2}


@needs_posix
def test_a_linked_folder_is_called_that_whatever_its_name(tmp_path: Path) -> None:
    """Its stems are missing in the database: 'not audio' would hide that."""
    root, outside = tmp_path / "in", tmp_path / "outside"
    touch(root, "kick.wav")
    touch(outside, "far.wav")
    os.symlink(outside, root / "More Drums")
    found, summary = walk(root)
    assert found == ["kick.wav"]
    assert summary.ignored == {"linked folder": 1}


@needs_posix
def test_a_link_to_a_file_outside_is_found_under_the_link_s_path_with_its_target_s_status(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "outside.bin"
    root.mkdir()
    outside.write_bytes(b"12345678")
    os.utime(outside, ns=(1, 1_600_000_000_000_000_000))
    os.symlink("../outside.bin", root / "linked.wav")
    (found,) = discover(WalkRules(os.path.realpath(root)), Summary("run"))
    assert found.path == os.path.join(os.path.realpath(root), "linked.wav")
    assert (found.size_bytes, found.mtime_ns) == (8, 1_600_000_000_000_000_000)


@needs_posix
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_link_whose_target_cannot_be_looked_at_counts_as_failed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stem may well be there, on a share that has gone: ignored, nobody would miss it."""
    link = Path(os.path.realpath(tmp_path)) / "linked.wav"
    link.symlink_to("/no such share/kick.wav")
    audio_files.fail_for(monkeypatch, os, "stat", OSError(number, os.strerror(number)), link)
    found, summary = walk(tmp_path)
    assert (found, summary.failed, summary.ignored) == ([], 1, {})
    assert os.strerror(number) in caplog.text


@needs_posix
def test_a_sibling_folder_with_the_input_s_name_as_prefix_is_outside(tmp_path: Path) -> None:
    touch(tmp_path, "in/kick.wav", "in2/far.wav")
    os.symlink("../in2/far.wav", tmp_path / "in" / "linked.wav")
    assert walk(tmp_path / "in")[0] == ["kick.wav", "linked.wav"]


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/a/b/c", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/a b/c", "/a", False),
        ("/a", "/", True),
        ("/", "/", True),
        ("/b/a", "/a", False),
    ],
)
def test_is_inside(path: str, folder: str, expected: bool) -> None:
    assert is_inside(path.replace("/", os.sep), folder.replace("/", os.sep)) is expected


def test_output_folders_inside_the_input_are_never_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "kick.wav", "out/stems/aa/1.wav", "out/quarantine/ERROR_X_1.wav", "out/mine.wav", "stems/own.wav")
    listed: list[str] = []
    scandir = os.scandir

    def listing(folder: str) -> Any:
        listed.append(os.path.relpath(folder, tmp_path))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", listing)
    found, summary = walk(tmp_path, tmp_path / "out" / "stems", tmp_path / "out" / "quarantine")
    assert found == ["kick.wav", "out/mine.wav", "stems/own.wav"]
    assert listed == [".", "out", "stems"]
    assert summary.found == 3


def test_a_run_with_its_outputs_inside_the_input_never_ingests_its_own(workplace: Workplace) -> None:
    write_tone(workplace.input / "kick.wav")
    write_text(workplace.input / "broken.wav")
    outputs: dict[str, Any] = {
        "database": workplace.input / "processed_database" / "stems.db",
        "stems": workplace.input / "processed_database" / "stems",
        "quarantine": workplace.input / "processed_database" / "quarantine",
        "log_file": workplace.input / "processed_database" / "prepare_dataset.log",
    }
    first = workplace.run(**outputs)
    assert (first.inserted, first.quarantined) == (1, 1)
    second = workplace.run(**outputs)
    assert (second.already_done, second.inserted, second.quarantined, second.failed) == (1, 0, 0, 0)


# -- what changes while it is looked at -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")])
def test_a_folder_that_cannot_be_listed_counts_as_failed(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.wav", "locked\n/b.wav", "open/c.wav")
    audio_files.fail_for(monkeypatch, os, "scandir", error, Path(os.path.realpath(tmp_path / "locked\n")))
    found, summary = walk(tmp_path)
    assert found == ["a.wav", "open/c.wav"]
    assert (summary.found, summary.failed) == (3, 1)
    assert "locked\\n: this folder cannot be listed" in caplog.text


def test_a_folder_that_fails_half_way_through_its_listing_counts_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.wav", "b.wav", "c.wav")

    def interrupted(folder: str) -> Iterator[os.DirEntry[str]]:
        with scandir(folder) as entries:
            yield next(entries)
        raise OSError(5, "Input/output error")

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", interrupted)
    found, summary = walk(tmp_path)
    assert found == []
    assert (summary.found, summary.failed) == (1, 1)


def test_a_folder_that_cannot_be_listed_makes_a_run_exit_1(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tone(workplace.input / "locked" / "b.wav")
    real_folder = Path(os.path.realpath(workplace.input / "locked"))
    audio_files.fail_for(monkeypatch, os, "scandir", PermissionError(13, "Permission denied"), real_folder)
    assert main(workplace.flags()) == 1
    assert "1 failed" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_without_permission_counts_as_failed(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "locked/b.wav")
    (tmp_path / "locked").chmod(0)
    try:
        found, summary = walk(tmp_path)
    finally:
        (tmp_path / "locked").chmod(0o755)
    assert (found, summary.failed) == (["a.wav"], 1)


def test_a_file_that_vanishes_while_its_folder_is_looked_at_counts_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.wav", "b.wav")

    def then_it_vanishes(folder: str) -> list[os.DirEntry[str]]:
        entries = list(scandir(folder))
        (tmp_path / "b.wav").unlink()
        return entries

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", then_it_vanishes)
    found, summary = walk(tmp_path)
    assert (found, summary.failed) == (["a.wav"], 1)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse or change some of these names")
def test_every_name_survives_a_whole_run(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = NAMES + NAMES_OF_LINUX
    for number, name in enumerate(names):
        write_tone(workplace.input / "good\n\x1b[31m" / name, hz=200 + 50 * number)
        write_text(workplace.input / "broken\n\x1b[31m" / name, f"broken {number}")
    root = os.path.realpath(workplace.input)
    good = {os.path.join(root, "good\n\x1b[31m", name) for name in names}
    broken = {os.path.join(root, "broken\n\x1b[31m", name) for name in names}
    audio_files.use_fake_clap(monkeypatch)

    assert main([*workplace.flags(), "-v", "--dry-run"]) == 0
    planned = capsys.readouterr()
    assert len(planned.out.splitlines()) == 2 * len(names)
    assert main([*workplace.flags(), "-v"]) == 0

    rows = workplace.rows()
    assert {row["original_file"] for row in rows} == good
    assert len({row["samples_sha256"] for row in rows}) == len(names)
    assert all(os.path.isfile(row["path"]) for row in rows)
    entries = [read_entry(path) for path in workplace.quarantine.glob("*.json")]
    assert {entry.original_file for entry in entries if entry} == broken
    assert {row["original_file"] for row in workplace.rows("SELECT * FROM quarantined")} == broken
    assert len(workplace.quarantined()) == len(names)
    assert {Path(entry.path).read_text() for entry in entries if entry} == {f"broken {n}" for n in range(len(names))}

    shown = planned.out + planned.err + capsys.readouterr().err
    logged = workplace.log_file.read_bytes().decode("utf-8")  # raises where it is not
    for text in (shown, logged):
        assert {character for character in text if not character.isprintable()} <= {"\n"}
        assert "\\x1b[2J" in text
    assert main(workplace.flags()) == 0
    assert f"nothing new: {len(names)} files already processed" in capsys.readouterr().err


@given(st.text() | st.binary().map(os.fsdecode))
def test_printable_leaves_one_line_that_any_terminal_and_file_can_take(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


def test_printable_takes_paths_and_bytes() -> None:
    assert printable(Path("a\nb")) == "a\\nb"
    assert printable(b"a\nb") == "a\\nb"
    if sys.platform == "linux":
        assert printable(b"caf\xe9") == printable(Path(os.fsdecode(b"caf\xe9"))) == "caf\\udce9"


def test_the_account_lists_its_reasons_and_closes_only_when_all_are_counted() -> None:
    summary = Summary("run", found=9, already_done=1, inserted=2, quarantined=1, failed=1, left=1)
    assert not summary.sum_closes
    summary.ignored = Counter({"hidden": 2, "not audio": 1})
    assert summary.sum_closes
    assert "3 ignored (2 hidden, 1 not audio), 1 left for the next run" in str(summary)


# -- folders that nobody wants in a library, links, and globs ----------------------------------------------------------


@pytest.mark.parametrize(
    "folder",
    [
        *("$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", "#recycle", "@Recycle", "@eaDir", ".Trash-1000"),
        *(".Trashes", "__MACOSX", "lost+found"),
    ],
)
def test_what_a_system_or_a_network_drive_keeps_for_itself_is_never_walked(folder: str, tmp_path: Path) -> None:
    touch(tmp_path, "kick.wav", f"{folder}/deleted.wav", f"Drums/{folder}/deep/deleted.wav", "Drums/snare.wav")
    assert walk(tmp_path)[0] == ["kick.wav", "Drums/snare.wav"]


def test_the_outputs_of_a_run_with_other_settings_are_not_taken_for_stems(workplace: Workplace) -> None:
    write_tone(workplace.input / "kick.wav")
    write_text(workplace.input / "broken.wav")
    inside = {"stems": workplace.input / "old" / "stems", "quarantine": workplace.input / "old" / "quarantine"}
    workplace.run(**inside)
    assert len(list((workplace.input / "old").rglob("*.wav"))) == 2
    summary = workplace.run(database=workplace.folder / "other.db")
    assert (summary.inserted, summary.quarantined) == (1, 0)
    assert summary.ignored["output folder of another run"] == 2


@needs_posix
def test_a_link_to_a_file_that_the_walk_does_not_take_is_a_stem(tmp_path: Path) -> None:
    """Clones of git-annex and DataLad, and the caches of Hugging Face, hold nothing but such links."""
    annex = ".git/annex/objects/xx/yy/SHA256E-1.wav/SHA256E-1.wav"
    touch(tmp_path, annex, "blobs/0123abcd", "outtakes/snare.wav", "hat.wav")
    for name, target in {"kick.wav": annex, "clap.wav": "blobs/0123abcd", "tom.wav": "outtakes/snare.wav"}.items():
        os.symlink(target, tmp_path / name)
    os.symlink("hat.wav", tmp_path / "same hat.wav")
    found, summary = walk(tmp_path, exclude=("outtakes",))
    assert found == ["clap.wav", "hat.wav", "kick.wav", "tom.wav"]
    assert summary.ignored == {"hidden": 1, "not audio": 1, "excluded folder": 1, "link to a file inside": 1}


@needs_posix
def test_linked_folders_are_entered_on_request_and_each_real_folder_once(tmp_path: Path) -> None:
    root, drive = tmp_path / "in", tmp_path / "drive"
    touch(root, "own/kick.wav")
    touch(drive, "Splice/snare.wav", "Splice/deep/hat.wav", "other/clap.wav")
    os.symlink(drive / "Splice", root / "Splice")
    os.symlink(drive / "Splice", root / "Splice again")
    os.symlink(drive, root / "all")
    os.symlink("../in", root / "own" / "loop")
    os.symlink(drive / "other", drive / "Splice" / "deep" / "more")
    found, _ = walk(root, follow_links=True)
    assert sorted(os.path.basename(path) for path in found) == ["clap.wav", "hat.wav", "kick.wav", "snare.wav"]
    assert "Splice/snare.wav" in found


@needs_posix
def test_without_that_one_line_names_the_first_linked_folder_and_the_flag(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "in"
    touch(root, "kick.wav")
    for name in ("a", "b"):
        touch(tmp_path / name, "far.wav")
        os.symlink(tmp_path / name, root / name)
    walk(root)
    (line,) = [record.getMessage() for record in caplog.records if "--follow-links" in record.getMessage()]
    assert f"{os.path.realpath(root)}/a: a linked folder, not entered" in line


def test_globs_leave_out_files_and_folders_and_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "kick.wav", "Loops/a.wav", "Loops/deep/b.wav", "Drums/raw kick.wav", "Drums/old/c.wav", "x.mp3")
    found, summary = walk(tmp_path, exclude=("*.mp3", "Loops", "Drums/old/", "*/raw *"))
    assert found == ["kick.wav"]
    assert summary.ignored == {"excluded": 2, "excluded folder": 2}


def test_globs_come_from_flags_or_config_yaml_and_the_account_names_them(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("kick.wav", "raw.wav", "old.wav"):
        write_tone(workplace.input / name)
    (workplace.folder / "config.yaml").write_text("exclude: ['raw*']\n", encoding="utf-8")
    assert main([*workplace.flags(), "--dry-run", "--config", str(workplace.folder / "config.yaml")]) == 0
    assert [os.path.basename(line) for line in capsys.readouterr().out.splitlines()] == ["kick.wav", "old.wav"]
    result = workplace.execute("--exclude", "raw*", "--exclude", "old*")
    assert result.returncode == 0, result.stderr
    assert "1 inserted" in result.stderr
    assert "2 excluded" in result.stderr


def test_a_walk_that_takes_none_of_its_audio_names_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.wav", "b.wav", "cover.jpg")
    walk(tmp_path, exclude=("*.wav",))
    assert "holds 2 files with audio names, and none of them was taken: 2 excluded, 1 not audio" in caplog.text
    caplog.clear()
    walk(tmp_path, exclude=("a*",))
    assert "none of them was taken" not in caplog.text
