"""A run that has nothing to do, must not begin, may not touch anything, or is not alone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import audio_files
from audio_files import everything, write_text, write_tone
from patching import replace_name
from prepare_dataset_sql import DatasetPreparer, main
from stem_dataset.database.stems import Database
from stem_dataset.errors import AlreadyRunning, RunStopped, UsageError
from stem_dataset.output_folders import LOCK_NAME, SCRATCH
from workplace import REPOSITORY, Workplace


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `main` in this process use a fake model, and do the workers' part here."""
    audio_files.use_inline_workers(monkeypatch)
    audio_files.use_fake_clap(monkeypatch)


def fill(place: Workplace, good: int = 3, broken: int = 1) -> None:
    for number in range(good):
        write_tone(place.input / f"good{number}.wav", hz=300 + 100 * number)
    for number in range(broken):
        write_text(place.input / f"broken{number}.wav")


# -- the input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize("what", ["missing", "file", "dangling link"])
def test_an_input_that_is_no_folder_is_named_and_nothing_is_made(
    what: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Workplace(tmp_path)
    if what == "file":
        write_tone(place.input)
    elif what == "dangling link":
        os.symlink("nowhere", place.input)
    before = everything(tmp_path)
    assert main([*place.flags(), *flags]) == 2
    message = capsys.readouterr().err
    assert str(place.input) in message
    assert ("not a folder" if what == "file" else "no such folder") in message
    assert everything(tmp_path) == before


def test_no_input_at_all_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert main([]) == 2
    message = capsys.readouterr().err
    assert "--input" in message
    assert "None" not in message
    assert os.listdir(tmp_path) == ["config.yaml"]


@pytest.mark.parametrize("made", ["empty", "only ignored"])
def test_a_folder_without_stems_ends_with_a_clear_line(
    made: str, workplace: Workplace, inline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    if made == "only ignored":
        write_text(workplace.input / "notes.txt")
        write_text(workplace.input / "song.mid")
    assert main(workplace.flags()) == 0
    shown = capsys.readouterr().err
    if made == "empty":
        assert f"{os.path.realpath(workplace.input)} holds no files: nothing to do" in shown
        assert "found 0:" in shown
    else:
        assert "nothing new: 0 files already processed, 2 ignored" in shown
        assert "2 not audio" in shown


@pytest.mark.parametrize("output", ["stems", "quarantine"])
@pytest.mark.parametrize("where", ["", "sub"])
def test_an_input_inside_an_output_folder_is_refused(
    where: str, output: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workplace.folder / "own"
    write_tone(folder / where / "kick.wav")
    os.symlink(folder, workplace.folder / "alias", target_is_directory=True)
    flags = [*workplace.flags(), f"--{output}", str(workplace.folder / "alias")]
    before = everything(workplace.folder)
    assert main([*flags, "--input", str(folder / where)]) == 2
    message = capsys.readouterr().err
    assert str(folder / where) in message
    assert "is inside the output folder" in message
    assert everything(workplace.folder) == before


def test_limit_leaves_the_rest_for_the_next_run(
    workplace: Workplace, inline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(workplace, good=5, broken=0)
    assert main([*workplace.flags(), "--limit", "2"]) == 0
    assert workplace.originals() == ["good0.wav", "good1.wav"]
    shown = capsys.readouterr().err
    assert "3 left for the next run" in shown
    second = workplace.run(limit=2)
    assert (second.already_done, second.inserted, second.left) == (2, 2, 1)
    third = workplace.run(limit=2)
    assert (third.already_done, third.inserted, third.left) == (4, 1, 0)


def test_no_stems_writes_no_wav_and_replaces_rows_that_had_one(workplace: Workplace, inline: None) -> None:
    fill(workplace, good=2)
    workplace.run()
    kept, replaced = workplace.rows()
    write_tone(workplace.input / "good1.wav", hz=900)
    write_tone(workplace.input / "new.wav", hz=1_000)
    assert main([*workplace.flags(), "--no-stems"]) == 0
    rows = workplace.rows()
    assert [row["path"] for row in rows] == [kept["path"], None, None]
    assert not Path(replaced["path"]).exists()
    assert [str(path) for path in workplace.wavs.rglob("*.wav")] == [kept["path"]]
    fresh = Workplace(workplace.folder / "fresh")
    fill(fresh, broken=0)
    assert main([*fresh.flags(), "--no-stems"]) == 0
    assert [row["path"] for row in fresh.rows()] == [None] * 3
    assert not fresh.wavs.exists()
    assert list(fresh.folder.joinpath("out").rglob("*.wav")) == []


# -- touching nothing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["no database", "a database", "a database and half a run"])
def test_dry_run_touches_nothing_and_prints_what_a_run_would_do(
    state: str, workplace: Workplace, inline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(workplace, good=3)
    done: set[str] = set()
    if state != "no database":
        workplace.run()
        done = {"good0.wav", "good1.wav", "good2.wav"}
        write_tone(workplace.input / "good1.wav", hz=900)  # changed
        done.remove("good1.wav")
        write_tone(workplace.input / "new" / "kick.wav")
        write_text(workplace.input / "broken9.wav")
    if state == "a database and half a run":
        (workplace.wavs / SCRATCH).mkdir(exist_ok=True)
        (workplace.wavs / SCRATCH / "half.wav").write_bytes(b"x")
        (workplace.quarantine / "ERROR_X_a.wav.json").write_text("{")
    before = everything(workplace.folder)
    capsys.readouterr()
    assert main([*workplace.flags(), "--dry-run"]) == 0
    assert everything(workplace.folder) == before
    shown = capsys.readouterr()
    planned = [os.path.relpath(line, os.path.realpath(workplace.input)) for line in shown.out.splitlines()]
    suffixes = ("good", "broken", os.path.join("new", "kick"))
    present = [path.relative_to(workplace.input) for path in workplace.input.rglob("*.wav")]
    assert sorted(planned) == sorted(str(path) for path in present if str(path) not in done)
    assert all(name.startswith(suffixes) for name in planned)
    assert f"{len(planned)} to process, {len(done)} already processed; nothing was touched" in shown.err
    summary = workplace.run()
    assert summary.inserted + summary.quarantined == len(planned)


def test_dry_run_with_limit_prints_what_a_run_with_that_limit_would_do(
    workplace: Workplace, inline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(workplace, good=4, broken=0)
    assert main([*workplace.flags(), "--dry-run", "--limit", "2"]) == 0
    planned = capsys.readouterr().out.splitlines()
    workplace.run(limit=2)
    assert planned == [row["original_file"] for row in workplace.rows()]


def test_dry_run_reads_what_a_killed_run_left_in_the_wal(
    workplace: Workplace, inline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was killed leaves rows that are only in the -wal file."""
    fill(workplace, good=3, broken=0)
    workplace.run(limit=2)
    database = Database(workplace.database)
    database.prepare_to_write()
    database.connection.execute("UPDATE stems SET user_rating = 1")
    database.connection.execute("DELETE FROM stems WHERE original_file LIKE '%good1.wav'")
    aside = workplace.folder / "aside"
    shutil.copytree(workplace.database.parent, aside)  # as they were when it was killed
    database.close()
    shutil.rmtree(workplace.database.parent)
    aside.rename(workplace.database.parent)
    names = ["stems.db", "stems.db-wal"]
    before = {name: (workplace.database.parent / name).read_bytes() for name in names}
    assert len(before["stems.db-wal"]) > 0
    assert main([*workplace.flags(), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert [os.path.basename(line) for line in shown.out.splitlines()] == ["good1.wav", "good2.wav"]
    assert {name: (workplace.database.parent / name).read_bytes() for name in names} == before


# -- the report -------------------------------------------------------------------------------------------------------


def report_of(path: Path) -> dict[str, Any]:
    """Return the report, its sum checked."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    outcomes = ("already_done", "inserted", "quarantined", "failed", "left")
    assert content["found"] == sum(content[name] for name in outcomes) + sum(content["ignored"].values())
    return content


def test_report_is_the_account_as_json(workplace: Workplace, inline: None) -> None:
    fill(workplace, good=3, broken=2)
    write_text(workplace.input / "notes.txt")
    path = workplace.folder / "report.json"
    assert main([*workplace.flags(), "--limit", "4", "--report", str(path)]) == 0
    first = report_of(path)
    assert first.pop("seconds") > 0
    assert first.pop("files_per_s") > 0
    assert len(first.pop("run_id")) == 32
    counts = {"found": 6, "already_done": 0, "inserted": 2, "quarantined": 2, "failed": 0, "left": 1}
    without_clap = {"copied": 0, "moved": 0, "vectors_kept": 0, "vanished": 0, "unseen": [], "failed_files": []}
    assert len(first.pop("quarantined_files")) == 2
    assert first == {**counts, **without_clap, "ignored": {"not audio": 1}, "exit_code": 0}
    assert main([*workplace.flags(), "--report", str(path)]) == 0
    second = report_of(path)
    assert (second["found"], second["already_done"], second["inserted"]) == (4, 2, 1)


def raise_(error: Exception) -> Callable[..., Any]:
    """Return a function that raises `error`, whatever it is called with."""

    def failing(*_: Any) -> Any:
        raise error

    return failing


def test_report_is_written_when_the_run_ends_with_an_error(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(workplace, good=3, broken=1)
    path = workplace.folder / "report.json"
    assert main([*workplace.flags(), "--report", str(path), "--checkpoint", "nonsense"]) == 2
    refused = report_of(path)
    assert (refused["exit_code"], refused["found"], refused["left"]) == (2, 0, 0)
    with monkeypatch.context() as fault:
        replace_name(fault, "cut_windows", raise_(PermissionError(13, "Permission denied")))
        assert main([*workplace.flags(), "--report", str(path)]) == 1
    faulty = report_of(path)
    assert (faulty["exit_code"], faulty["failed"], faulty["quarantined"]) == (1, 3, 1)
    with monkeypatch.context() as fault:
        loader = raise_(RunStopped("CLAP is broken"))
        fault.setattr(DatasetPreparer.__init__, "__defaults__", (loader, False))
        assert main([*workplace.flags(), "--report", str(path)]) == 4
    stopped = report_of(path)
    assert (stopped["exit_code"], stopped["failed"], stopped["left"]) == (4, 0, 3)
    assert main([*workplace.flags(), "--report", str(path)]) == 0
    assert report_of(path)["inserted"] == 3


@pytest.mark.parametrize("where", ["missing/report.json", "stems", "stems/good0.wav/report.json"])
def test_a_report_that_cannot_be_written_is_a_usage_error_before_anything_is_made(
    where: str, workplace: Workplace, inline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(workplace, good=1, broken=1)
    before = everything(workplace.folder)
    path = workplace.folder / where
    assert main([*workplace.flags(), "--report", str(path)]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"error: --report {path}: cannot be written: ")
    assert everything(workplace.folder) == before


def test_the_report_lists_every_quarantined_and_failed_file_with_its_reason(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(workplace, good=2, broken=2)
    path = workplace.folder / "report.json"
    replace_name(monkeypatch, "cut_windows", raise_(PermissionError(13, "Permission denied")))
    assert main([*workplace.flags(), "--report", str(path)]) == 1
    report = report_of(path)
    quarantined = sorted(report["quarantined_files"], key=lambda problem: str(problem["file"]))
    assert [problem["file"] for problem in quarantined] == [str(workplace.input / f"broken{n}.wav") for n in range(2)]
    for problem in quarantined:
        assert problem["reason"].startswith("LibsndfileError: ")
        assert "ERROR_LibsndfileError_broken" in problem["quarantined_as"]
        assert Path(problem["quarantined_as"]).is_file()
    failed = sorted(report["failed_files"], key=lambda problem: str(problem["file"]))
    assert [problem["file"] for problem in failed] == [str(workplace.input / f"good{n}.wav") for n in range(2)]
    assert all("Permission denied" in problem["reason"] for problem in failed)


def test_the_report_lists_a_folder_that_cannot_be_read(
    workplace: Workplace, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(workplace, good=1, broken=0)
    locked = workplace.input / "locked"
    locked.mkdir()
    scandir = os.scandir

    def refuse(folder: str) -> Any:
        if str(folder) == str(locked):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    path = workplace.folder / "report.json"
    assert main([*workplace.flags(), "--report", str(path)]) == 1
    (problem,) = report_of(path)["failed_files"]
    assert problem["file"] == str(locked)
    assert "Permission denied" in problem["reason"]


# -- mistakes that are found before anything is made ------------------------------------------------------------------

# The flags, and what the message holds.
MISTAKES = {
    "no such name": (["--checkpoint", "nonsense"], "music_speech_audioset_epoch_15_esc_89.98"),
    "no such file": (["--checkpoint", "nonsense.pt"], "nonsense.pt: no such file"),
    "a folder": (["--checkpoint", "."], "is a folder"),
    "no CUDA": (["--device", "cuda"], "sees no CUDA device here"),
    "no bf16": (["--device", "cpu", "--precision", "bf16"], "precision bf16"),
    "nobody to embed": (["--embed-on", "workers"], "--embed-on workers"),
}


@pytest.mark.parametrize("state", ["first run", "something new", "nothing new", "dry run", "re-embed", "verify"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_the_only_message_and_has_one_exit_code_whatever_the_run_would_do(
    mistake: str,
    state: str,
    workplace: Workplace,
    inline: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    replace_name(monkeypatch, "has_openvino", lambda: False)  # torch imitates bf16 on any CPU
    monkeypatch.chdir(workplace.folder)
    fill(workplace)
    if state not in ("first run", "dry run"):
        assert main(workplace.flags()) == 0
        capsys.readouterr()
    if state == "something new":
        write_tone(workplace.input / "new.wav", hz=90)
    modes = {"dry run": ["--dry-run"], "re-embed": ["--re-embed"], "verify": ["--verify-vectors"]}
    flags, text = MISTAKES[mistake]
    before = everything(workplace.folder)
    assert main([*workplace.flags(), *modes.get(state, []), *flags]) == 2
    captured = capsys.readouterr()
    (message,) = captured.err.splitlines()
    assert message.startswith("error: ")
    assert text in message
    assert captured.out == ""
    assert everything(workplace.folder) == before


# -- nothing new ------------------------------------------------------------------------------------------------------

WATCHED_RUN = """
import json, os, sys
sys.path[:0] = [{repository!r}]
opened = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.append(os.path.realpath(os.fsdecode(arguments[0])))
sys.addaudithook(watch)
import prepare_dataset_sql as product
code = product.main(sys.argv[1:])
print(json.dumps({{"code": code, "opened": opened, "modules": sorted(sys.modules)}}))
"""


def watched_run(place: Workplace, *flags: str) -> tuple[dict[str, Any], str]:
    """Run the program itself, real model and all, in a process that tells what it opened and imported."""
    script = WATCHED_RUN.format(repository=str(REPOSITORY))
    command = [sys.executable, "-c", script, *place.flags(), *flags]
    done = subprocess.run(command, cwd=place.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told, done.stderr


def test_a_second_run_opens_no_audio_and_loads_no_model(workplace: Workplace, inline: None) -> None:
    fill(workplace, good=4, broken=2)
    workplace.run()
    write_text(workplace.input / "notes.txt")
    rows, quarantined = workplace.rows(), workplace.rows("SELECT * FROM quarantined")
    inputs, outputs = audio_files.tree(workplace.input), audio_files.tree(workplace.folder / "out")
    told, shown = watched_run(workplace)
    assert told["code"] == 0
    assert shown.splitlines()[0] == "nothing new: 4 files already processed, 1 ignored"
    input_folder, wavs = os.path.realpath(workplace.input), os.path.realpath(workplace.wavs)
    assert os.path.realpath(workplace.log_file) in told["opened"]  # the hook is at work
    assert [path for path in told["opened"] if path.startswith(input_folder)] == []
    assert [path for path in told["opened"] if path.startswith(wavs) and path.endswith(".wav")] == []
    imported = {module.partition(".")[0] for module in told["modules"]}
    assert "soundfile" in imported
    heavy = {
        "av",
        "torch",
        "laion_clap",
        "librosa",
        "openvino",
        "pandas",
        "scipy",
        "transformers",
        "huggingface_hub",
        "numba",
    }
    assert imported & heavy == set()
    assert workplace.rows() == rows
    assert workplace.rows("SELECT * FROM quarantined") == quarantined
    assert audio_files.tree(workplace.input) == inputs
    after = audio_files.tree(workplace.folder / "out")
    changed = {name for name in {*outputs, *after} if after.get(name) != outputs.get(name)}
    expected = {name for name in outputs if name.endswith((".lock", ".log", SCRATCH))}
    assert changed <= expected


# -- not alone --------------------------------------------------------------------------------------------------------


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until there is something in `path`."""
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(os.name != "posix", reason="Windows lets nobody read a locked file")
def test_a_dry_run_takes_a_database_without_tables_for_a_new_one(workplace: Workplace, inline: None) -> None:
    fill(workplace, good=1, broken=0)
    workplace.database.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(workplace.database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # as far as a run had come when it was killed
    assert workplace.database.stat().st_size > 0
    assert main([*workplace.flags(), "--dry-run"]) == 0
    assert main(workplace.flags()) == 0
    assert len(workplace.rows()) == 1


def test_a_second_run_at_once_is_refused_with_the_output_and_the_process(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(workplace, good=3)
    other = Workplace(workplace.folder / "other")
    fill(other, good=1)
    before = everything(other.input)
    lock = workplace.database.with_name("stems.db.lock")
    with workplace.start() as first:
        wait_for(lock, first)
        wait_for(workplace.quarantine / LOCK_NAME, first)
        first.send_signal(signal.SIGSTOP)  # so that it is at work for as long as this takes
        try:
            second = workplace.execute()
            assert second.returncode == 5
            assert f"{workplace.database} is in use by another run (process {first.pid})" in second.stderr
            with pytest.raises(AlreadyRunning, match=f"process {first.pid}"):  # a refusal does not overwrite it
                workplace.run()
            for output, folder in (("stems", workplace.wavs), ("quarantine", workplace.quarantine)):
                assert main([*other.flags(), f"--{output}", str(folder)]) == 5
                assert f"{folder} is in use by another run (process {first.pid})" in capsys.readouterr().err
            assert everything(other.input) == before
            with pytest.raises(AlreadyRunning):
                DatasetPreparer(workplace.config(), show_progress=False).restore_quarantine()
            assert main([*workplace.flags(), "--dry-run"]) == 0  # looking is allowed
        finally:
            first.send_signal(signal.SIGCONT)
        _, stderr = first.communicate(timeout=60)
    assert first.returncode == 0, stderr
    assert workplace.originals() == ["good0.wav", "good1.wav", "good2.wav"]
    assert other.run(stems=workplace.wavs, quarantine=workplace.quarantine).inserted == 1


def test_the_lock_of_a_dead_process_holds_nobody(workplace: Workplace) -> None:
    fill(workplace, good=3)
    with workplace.start(faults={"slow_s": 60}) as first:
        wait_for(workplace.database.with_name("stems.db.lock"), first)
        wait_for(workplace.quarantine / LOCK_NAME, first)
        first.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        first.communicate(timeout=60)
    locks = [output / LOCK_NAME for output in (workplace.wavs, workplace.quarantine)]
    locks.append(workplace.database.with_name("stems.db.lock"))
    assert [lock.read_text(encoding="ascii") for lock in locks] == [str(first.pid)] * 3  # they are there still
    summary = workplace.run()
    assert summary.inserted == 3
    assert workplace.originals() == ["good0.wav", "good1.wav", "good2.wav"]


def test_usage_error_of_the_class_itself_names_the_folder(workplace: Workplace) -> None:
    workplace.input.rmdir()
    with pytest.raises(UsageError, match="no such folder"):
        workplace.run()
    assert not workplace.database.parent.exists()
