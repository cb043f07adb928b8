"""--list-missing and --forget-missing: rows whose files are gone, and none whose drive may be absent."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import time
from pathlib import Path

import pytest

import audio_files
from audio_files import write_tone
from patching import replace_name
from prepare_dataset_sql import main
from stem_dataset.commands import missing as missing_module
from stem_dataset.commands.missing import FolderAt, Folders, missing_files
from stem_dataset.datatypes import StoredFile
from workplace import Workplace


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    audio_files.use_inline_workers(monkeypatch)
    audio_files.use_fake_clap(monkeypatch)


@pytest.fixture
def filled(workplace: Workplace) -> Workplace:
    """Three packs of three stems; the user has rated the first of each."""
    for number, name in enumerate("abc"):
        for take in range(3):
            write_tone(workplace.input / f"pack {name}" / f"{take}.wav", hz=200 + 500 * number + 100 * take)
    workplace.run()
    workplace.change("UPDATE stems SET user_rating = 4 WHERE original_file LIKE '%/0.wav'")
    return workplace


def listed(place: Workplace, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """Return what --list-missing prints: the names of files by what is said of them."""
    capsys.readouterr()
    assert main([*place.flags(), "--list-missing"]) == 0
    found: dict[str, list[str]] = {"gone": [], "out of reach": []}
    for line in capsys.readouterr().out.splitlines():
        kind, _, path = line.partition(": ")
        found[kind].append(path.removeprefix(f"{place.input}/").partition(" (")[0])
    return found


def names(place: Workplace) -> list[str]:
    return place.originals()


# -- what is missing --------------------------------------------------------------------------------------------------


def test_nothing_is_missing_from_a_whole_library(filled: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    before = audio_files.everything(filled.folder)
    assert listed(filled, capsys) == {"gone": [], "out of reach": []}
    assert audio_files.everything(filled.folder) == before


def test_deleted_files_and_packs_are_listed_and_nothing_is_touched(
    filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    os.remove(filled.input / "pack a" / "1.wav")
    shutil.rmtree(filled.input / "pack b")
    before = audio_files.everything(filled.folder)
    expected = ["pack a/1.wav", "pack b/0.wav", "pack b/1.wav", "pack b/2.wav"]
    assert listed(filled, capsys) == {"gone": expected, "out of reach": []}
    assert audio_files.everything(filled.folder) == before
    assert main([*filled.flags(), "--list-missing"]) == 0
    captured = capsys.readouterr()
    assert "the files of 4 are gone (1 of these rows have your rating), those of 0 are out of reach" in captured.err
    assert len(captured.out.splitlines()) == 4


def test_an_absent_library_is_out_of_reach_whole(filled: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    filled.input.rename(filled.folder / "elsewhere")
    assert len(listed(filled, capsys)["out of reach"]) == 9
    filled.input.mkdir()  # an empty mount point
    assert len(listed(filled, capsys)["out of reach"]) == 9


def test_an_empty_folder_may_be_a_mount_point_and_is_believed_when_it_is_removed(
    filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    for take in range(3):
        os.remove(filled.input / "pack b" / f"{take}.wav")
    (filled.input / "pack b" / ".DS_Store").touch()
    missing = [f"pack b/{take}.wav" for take in range(3)]
    assert listed(filled, capsys) == {"gone": [], "out of reach": missing}
    shutil.rmtree(filled.input / "pack b")
    assert listed(filled, capsys) == {"gone": missing, "out of reach": []}


def test_only_rows_below_the_input_are_looked_at(filled: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    for pack in "ab":
        os.remove(filled.input / f"pack {pack}" / "1.wav")
    flags = filled.flags()
    flags[1] = str(filled.input / "pack a")
    assert main([*flags, "--list-missing"]) == 0
    assert capsys.readouterr().out == f"gone: {filled.input}/pack a/1.wav\n"
    assert main([*flags[2:], "--list-missing"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_without_a_database_it_is_a_usage_error_that_makes_nothing(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--list-missing", "--forget-missing"):
        assert main([*workplace.flags(), flag, "--yes"]) == 2
        assert f"{flag}: there is no database at" in capsys.readouterr().err
    assert sorted(path.name for path in workplace.folder.iterdir()) == ["stems"]


# -- drives -----------------------------------------------------------------------------------------------------------


class Drives:
    """A file system of folders that a test describes: their names, device, and what is wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folders: dict[str, tuple[int, str]], hanging: str = "") -> None:
        self.folders = folders
        self.hanging = hanging
        self.waits = 0
        monkeypatch.setattr(missing_module, "FolderAt", self.look)
        monkeypatch.setattr("os.path.lexists", lambda _: False)

    def look(self, path: str) -> FolderAt:
        if self.hanging and (path + "/").startswith(self.hanging + "/"):
            self.waits += 1
            raise TimeoutError
        there = FolderAt.__new__(FolderAt)
        device, content = self.folders.get(path, (None, ""))
        there.device, there.names, there.problem, there.is_mount_point = device, set(content.split()), "", False
        if content == "EACCES":
            there.names, there.problem = set(), "Permission denied"
        if content.startswith("MOUNT"):
            there.is_mount_point = True
        return there


def gone_of(*paths: str) -> tuple[list[str], dict[str, str]]:
    """Return which of these rows' files are gone, and why others are out of reach."""
    files = [StoredFile(path, path, None, False) for path in paths]
    missing = missing_files(files, Folders())
    gone = [each.file.id for each in missing if not each.out_of_reach]
    return gone, {each.file.id: each.out_of_reach for each in missing if each.out_of_reach}


def test_a_drive_that_left_an_empty_mount_point_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    Drives(monkeypatch, {"/": (1, "media lib"), "/media": (1, "usb"), "/media/usb": (1, ""), "/lib": (1, "k.wav")})
    gone, why = gone_of("/lib/k.wav", "/lib/old/s.wav", "/lib/t.wav", "/media/usb/a.wav", "/media/usb/p/b.wav")
    assert gone == ["/lib/old/s.wav", "/lib/t.wav"]
    assert "its folder is empty, as the place of an absent drive is" in why["/media/usb/a.wav"]
    assert "no other file of a row in /media/usb: is a drive absent?" in why["/media/usb/p/b.wav"]


def test_a_drive_whose_mount_point_went_with_it_is_absent_beside_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    Drives(monkeypatch, {"/": (1, "Volumes"), "/Volumes": (1, "Two Disk"), "/Volumes/Two": (2, "k.wav")})
    gone, why = gone_of("/Volumes/One/a.wav", "/Volumes/One/p/b.wav", "/Volumes/Two/k.wav", "/Volumes/Two/old/s.wav")
    assert gone == ["/Volumes/Two/old/s.wav"]
    assert len(why) == 2


def test_another_drive_in_the_same_place_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Drives(monkeypatch, {"/": (1, "usb"), "/usb": (7, "MOUNT other.wav")})
    assert gone_of("/usb/a.wav", "/usb/p/b.wav")[0] == []
    assert gone_of("/usb/a.wav", "/usb/other.wav")[0] == ["/usb/a.wav"]


def test_a_folder_that_cannot_be_read_says_nothing_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    Drives(monkeypatch, {"/": (1, "lib"), "/lib": (1, "k.wav p"), "/lib/p": (1, "EACCES")})
    assert gone_of("/lib/k.wav", "/lib/p/a.wav") == ([], {"/lib/p/a.wav": "Permission denied"})


def test_a_drive_that_hangs_is_waited_for_twice_and_not_for_each_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    drives = Drives(monkeypatch, {"/": (1, "nas lib"), "/lib": (1, "k.wav")}, hanging="/nas")
    gone, why = gone_of("/lib/k.wav", "/lib/s.wav", *(f"/nas/pack {number}/a.wav" for number in range(50)))
    assert gone == ["/lib/s.wav"]
    assert len(why) == 50
    assert drives.waits == 2


# -- forgetting -------------------------------------------------------------------------------------------------------


def lose_four(place: Workplace) -> list[Path]:
    """Delete four files, two of them rated; return their WAVs."""
    rows = [row for row in place.rows() if "/pack a/0" in row["original_file"] or "/pack b/" in row["original_file"]]
    for row in rows:
        os.remove(row["original_file"])
    (place.input / "pack b").rmdir()
    return [Path(row["path"]) for row in rows]


def test_rows_whose_files_are_gone_are_forgotten_with_their_wavs(
    filled: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    wavs, before = lose_four(filled), filled.rows()
    report = filled.folder / "report.json"
    assert main([*filled.flags(), "--forget-missing", "--yes", "--report", str(report)]) == 0
    message = capsys.readouterr().err
    assert "9 rows: the files of 4 are gone (2 of these rows have your rating), those of 0 are out of reach" in message
    assert "; 4 forgotten; " in message
    assert [wav for wav in wavs if wav.exists()] == []
    kept = [row for row in before if Path(row["original_file"]).exists()]
    assert filled.rows() == kept
    assert all(Path(row["path"]).exists() for row in kept)
    account = json.loads(report.read_text(encoding="utf-8"))
    assert {name: account[name] for name in ("rows", "gone", "rated", "forgotten", "left", "exit_code")} == {
        "rows": 9,
        "gone": 4,
        "rated": 2,
        "forgotten": 4,
        "left": 0,
        "exit_code": 0,
    }
    assert main(filled.flags()) == 0
    assert "rows are gone" not in capsys.readouterr().err


def test_corrections_go_with_their_rows_and_those_of_the_others_stay(filled: Workplace) -> None:
    filled.change("INSERT INTO corrections (stem_id, column_name, value) SELECT id, 'bpm', 99 FROM stems")
    lose_four(filled)
    assert main([*filled.flags(), "--forget-missing", "--yes"]) == 0
    corrected = {row["stem_id"] for row in filled.rows("SELECT * FROM corrections")}
    assert corrected == {row["id"] for row in filled.rows()}
    assert len(corrected) == 5


def test_rows_out_of_reach_are_named_and_kept(filled: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    filled.input.rename(filled.folder / "elsewhere")
    before = filled.rows()
    flags = filled.flags()[2:]
    assert main([*flags, "--forget-missing", "--yes"]) == 0
    message = capsys.readouterr().err
    assert message.count(": its row is kept: its folder is not there") == 9
    assert "; 0 forgotten" in message
    assert filled.rows() == before


def test_without_a_terminal_and_without_yes_it_is_a_usage_error_that_changes_nothing(filled: Workplace) -> None:
    lose_four(filled)
    before = audio_files.everything(filled.folder)
    result = filled.execute("--forget-missing")
    assert result.returncode == 2
    for part in ("--forget-missing: asks before it forgets", "--list-missing", "--yes", "nothing was changed"):
        assert part in result.stderr, part
    assert audio_files.everything(filled.folder) == before


def on_a_terminal(place: Workplace, answer: bytes | None) -> tuple[int, str]:
    """Run --forget-missing on a terminal; answer its question, or press Ctrl-C. Return exit code and screen."""
    ours, theirs = pty.openpty()
    with place.start("--forget-missing", stdin=theirs) as process:
        os.close(theirs)
        assert process.stderr is not None
        screen = ""
        deadline = time.monotonic() + 60
        while "[y/N] " not in screen and time.monotonic() < deadline:
            screen += process.stderr.read(1)
        if answer is None:
            process.send_signal(signal.SIGINT)
        else:
            os.write(ours, answer)
        screen += process.communicate(timeout=60)[1]
    os.close(ours)
    return process.returncode, screen


@pytest.mark.parametrize(("answer", "left"), [(b"y\n", 5), (b"Yes\n", 5), (b"n\n", 9), (b"\n", 9), (b"\x04", 9)])
def test_on_a_terminal_it_asks(answer: bytes, left: int, filled: Workplace) -> None:
    lose_four(filled)
    exit_code, screen = on_a_terminal(filled, answer)
    assert exit_code == 0
    assert "Forget 4 rows whose files are gone, 2 of them with your rating, and remove their WAVs?" in screen
    assert len(filled.rows()) == left
    assert ("nothing was forgotten" in screen) == (left == 9)


def test_ctrl_c_at_the_question_forgets_nothing(filled: Workplace) -> None:
    lose_four(filled)
    exit_code, screen = on_a_terminal(filled, None)
    assert exit_code == 130
    assert "Traceback" not in screen
    assert len(filled.rows()) == 9


def test_a_file_that_comes_back_meanwhile_keeps_its_row(filled: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = filled.input / "pack a" / "1.wav"
    content = lost.read_bytes()
    lost.unlink()
    monkeypatch.setattr(missing_module, "answer_to", lambda *_: lost.write_bytes(content))
    replace_name(monkeypatch, "refuse_without_terminal", lambda *_: None)
    assert main([*filled.flags(), "--forget-missing"]) == 0
    assert len(filled.rows()) == 9
    assert all(Path(row["path"]).exists() for row in filled.rows())


def test_a_run_that_is_killed_between_wav_and_row_is_finished_by_the_next(filled: Workplace) -> None:
    wavs = lose_four(filled)
    killed = filled.execute("--forget-missing", "--yes", faults={"kill_after": {"drop_wav": 3}})
    assert killed.returncode == -signal.SIGKILL
    assert len(filled.rows()) == 9
    assert filled.execute("--forget-missing", "--yes").returncode == 0
    assert len(filled.rows()) == 5
    assert [wav for wav in wavs if wav.exists()] == []
