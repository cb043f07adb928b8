"""What a machine does to a run: disks that are full, read-only, gone or locked, too few open files, no permission.

Each is really done: by a mounted file system, a limit of the process, a mode, a lock of another program. After each,
the account closes, no healthy file has moved, the message tells the way out, and a run after mending completes.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import audio_files
import prepare_dataset_sql as product
from audio_files import tree, write_text, write_tone
from fake_clap import FakeClap, is_reference
from patching import replace_name
from workplace import REPOSITORY, Workplace, obey_modes, wait_for_no_process_of


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code, stderr, the account of --report (empty where it could not be written)."""

    code: int
    said: str
    account: dict[str, Any]

    def counts(self, *names: str) -> tuple[int, ...]:
        return tuple(self.account[name] for name in names)


Run = Callable[..., Ended]


def account_of(report: Path) -> dict[str, Any]:
    """Return the account of a --report, its sum checked."""
    account: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    outcomes = ("already_done", "inserted", "quarantined", "failed", "left")
    assert account["found"] == sum(account[name] for name in outcomes) + sum(account["ignored"].values())
    return account


@pytest.fixture
def run(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `main` in this process, with real workers and a fake model."""
    report = tmp_path_factory.mktemp("report") / "report.json"

    def run_main(*flags: str, model: FakeClap | None = None) -> Ended:
        report.unlink(missing_ok=True)
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            audio_files.use_fake_clap(patch, model)
            code = product.main([*workplace.flags(), "--report", str(report), *flags])
        return Ended(code, capsys.readouterr().err, account_of(report) if report.exists() else {})

    return run_main


GOOD, BROKEN = 6, 2


@pytest.fixture
def stems(workplace: Workplace) -> Workplace:
    """Six valid stems of a second (144 kB as a WAV) and two broken ones of 100 kB."""
    for number in range(GOOD):
        write_tone(workplace.input / f"good{number}.wav", hz=300 + 100 * number, seconds=1)
    for number in range(BROKEN):
        write_text(workplace.input / f"broken{number}.wav", "no audio at all\n" * 6_250)
    return workplace


def mount(*arguments: str) -> bool:
    command = ["mount", *arguments]
    return sys.platform == "linux" and subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmount(folder: Path) -> None:
    """Take a file system away from where it is, as a drive is pulled out; open files stay open."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def memory_of(size: str) -> list[str]:
    """Return the arguments that mount a file system in memory."""
    return ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]


@contextlib.contextmanager
def mounted(folder: Path, source: Sequence[str]) -> Iterator[Path]:
    """A file system of its own at `folder`; skips where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    if not mount(*source, str(folder)):
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield folder
    finally:
        # As often as something is mounted there: `os.path.ismount` does not see a folder that is bound to another.
        while subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False).returncode == 0:
            pass


@contextlib.contextmanager
def disk_under(place: Workplace, output: str, source: Sequence[str]) -> Iterator[Path]:
    """Put a file system under one output, and no other output on it but the log."""
    folders = {"stems": place.wavs, "quarantine": place.quarantine, "database": place.database.parent}
    with mounted(folders[output], source) as folder:
        if output == "database":
            for other in (place.wavs, place.quarantine):
                other.symlink_to(place.folder / f"real_{other.name}")
                (place.folder / f"real_{other.name}").mkdir()
        yield folder


def fill_up(folder: Path, but_kb: int = 0) -> Path:
    """Leave only so much of the file system of `folder`."""
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(folder).free - but_kb * 1_000))
    return ballast


def assert_all_is_done(place: Workplace, ended: Ended) -> None:
    """Check that a run after mending has completed what the machine had kept it from."""
    assert ended.code == 0, ended.said
    assert ended.counts("failed", "left") == (0, 0)
    assert place.originals() == [f"good{number}.wav" for number in range(GOOD)]
    assert place.quarantined() == [f"ERROR_LibsndfileError_broken{number}.wav" for number in range(BROKEN)]
    assert place.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    assert len(place.rows("SELECT * FROM quarantined")) == BROKEN


def good_files(place: Workplace) -> dict[str, tuple[Any, ...]]:
    """Return the valid stems, which nothing may happen to."""
    return {name: file for name, file in tree(place.input).items() if name.startswith("good")}


# -- disk full --------------------------------------------------------------------------------------------------------


def test_no_room_for_the_wavs_fails_files_and_the_next_run_completes(stems: Workplace, run: Run) -> None:
    before = good_files(stems)
    with disk_under(stems, "stems", memory_of("600k")) as disk:
        ended = run()
        assert ended.code == 1
        assert 1 <= ended.account["inserted"] < GOOD
        assert ended.counts("quarantined", "failed") == (BROKEN, GOOD - ended.account["inserted"])
        assert "No space left on device (free some space on that disk, or give another folder (--stems" in ended.said
        assert good_files(stems) == before
        assert mount("-o", "remount,size=99m", str(disk))
        assert_all_is_done(stems, run())


def test_no_room_for_the_log_costs_the_log_and_not_the_run(stems: Workplace, run: Run) -> None:
    with mounted(stems.folder / "logs", memory_of("100k")) as disk:
        fill_up(disk)
        ended = run("--log-file", str(disk / "run.log"))
    assert_all_is_done(stems, ended)
    said = f"{disk / 'run.log'} cannot be written: [Errno 28] No space left on device (free some space on that disk"
    assert ended.said.count(said) == 1


def test_no_room_in_quarantine_leaves_the_broken_file_where_it_is(stems: Workplace, run: Run) -> None:
    before = tree(stems.input)
    with disk_under(stems, "quarantine", memory_of("600k")) as disk:
        ballast = fill_up(disk, but_kb=50)
        ended = run()
        assert ended.code == 1
        assert ended.counts("inserted", "quarantined", "failed") == (GOOD, 0, BROKEN)
        assert re.search(r"No space left on device: '.+' \(free some space on that disk", ended.said)
        assert tree(stems.input) == before
        assert audio_files.file_names(disk) == ["ballast"]
        ballast.unlink()
        assert_all_is_done(stems, run())


@pytest.mark.parametrize("free_kb", [0, 30, 60, 90, 130])
def test_no_room_for_the_database_stops_the_run_and_loses_nothing(free_kb: int, stems: Workplace, run: Run) -> None:
    """At opening, for the -shm, for the tables, for the WAL, at a commit: wherever the room ends."""
    before = good_files(stems)
    with disk_under(stems, "database", memory_of("600k")) as disk:
        ballast = fill_up(disk, free_kb)
        ended = run("--log-file", str(stems.folder / "run.log"), "--batch-windows", "1")
        assert ended.code == 4
        assert f"{stems.database}: d" in ended.said  # "database or disk is full" or "disk I/O error"
        assert "free some space on i" in ended.said
        assert good_files(stems) == before
        ballast.unlink()
        assert_all_is_done(stems, run())


def test_no_room_for_the_report_is_said_and_costs_no_row(stems: Workplace, run: Run) -> None:
    with mounted(stems.folder / "reports", memory_of("100k")) as disk:
        fill_up(disk)
        ended = run("--report", str(disk / "report.json"))
    assert ended.code == 4
    assert f"--report {disk / 'report.json'}: cannot be written: [Errno 28] No space left on device (free" in ended.said
    assert_all_is_done(stems, run())


# -- read-only --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["stems", "quarantine", "database", "log_file"])
def test_a_read_only_output_is_said_before_anything_is_touched(output: str, stems: Workplace, run: Run) -> None:
    logs = stems.folder / "logs"
    disk = mounted(logs, memory_of("9m")) if output == "log_file" else disk_under(stems, output, memory_of("9m"))
    with disk as folder:
        assert mount("-o", "remount,ro", str(folder))
        before = audio_files.everything(stems.input)
        ended = run("--log-file", str(logs / "run.log"))
        assert ended.code == 4
        what = (
            "the log cannot be written" if output == "log_file" else "this output folder cannot be made or written to"
        )
        assert f"{what}: [Errno 30] Read-only" in ended.said
        assert "make that file system writable, or give another folder" in ended.said
        assert audio_files.everything(stems.input) == before
        assert stems.quarantined() == []
        assert mount("-o", "remount,rw", str(folder))
        assert_all_is_done(stems, run("--log-file", str(logs / "run.log")))


class OnCall(FakeClap):
    """A model that does something in its n-th call: in mid-run, with rows in the database and files to come."""

    def __init__(self, call: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.call = call
        self.action = action

    def get_audio_embedding_from_data(self, x: Any) -> Any:
        vectors = super().get_audio_embedding_from_data(x)
        if not is_reference(x) and len(self.call_sizes) == self.call:
            self.action()
        return vectors


def write_many(folder: Path, count: int = 30, lowest_hz: int = 300) -> None:
    for number in range(count):
        write_tone(folder / f"good{number:02}.wav", hz=lowest_hz + 10 * number)


def disk_in_a_file(image: Path) -> list[str]:
    """Make a file system for a real disk; return the arguments that mount it."""
    image.write_bytes(bytes(16_000_000))
    mkfs = ["mkfs.ext4", "-q", str(image)]
    if shutil.which("mkfs.ext4") is None or subprocess.run(mkfs, check=False).returncode:
        pytest.skip("no ext4 can be made here")
    return ["-o", "loop", str(image)]


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [
        ("stems", 1, r"Read-only file system: '.+' \(make that file system writable, or give another folder"),
        ("database", 4, "its disk is full, failing or gone: free some space on it, or check it, then run again"),
    ],
)
def test_a_disk_that_fails_in_mid_run_harms_no_file_and_the_next_run_completes(
    output: str, code: int, said: str, stems: Workplace, run: Run
) -> None:
    """ext4 makes it read-only then, also for files that are open for writing."""
    write_many(stems.input / "more")
    before = good_files(stems)
    flags = ["--batch-windows", "1", "--log-file", str(stems.folder / "run.log")]
    disk = disk_in_a_file(stems.folder / "disk.img")
    with disk_under(stems, output, disk) as folder:
        ended = run(*flags, model=OnCall(3, lambda: mount("-o", "remount,abort", str(folder))))
        assert ended.code == code
        assert (ended.account["failed"] > 0) == (output == "stems")
        assert ended.account["inserted"] >= 2
        assert re.search(said, ended.said)
        assert good_files(stems) == before
        unmount(folder)
        assert mount(*disk, str(folder))
        mended = run(*flags)
        assert mended.code == 0, mended.said
        assert len(stems.rows()) == GOOD + 30
        assert len(stems.quarantined()) == BROKEN


def test_broken_files_of_a_read_only_library_are_copied_and_skipped_from_then_on(stems: Workplace, run: Run) -> None:
    with mounted(stems.folder / "library", memory_of("9m")) as library:
        shutil.copytree(stems.input, library, dirs_exist_ok=True)
        assert mount("-o", "remount,ro", str(library))
        before = audio_files.everything(library)
        ended = run("--input", str(library))
        assert (ended.code, ended.counts("inserted", "quarantined", "failed")) == (0, (GOOD, BROKEN, 0))
        assert "copied to quarantine, but cannot be removed here: [Errno 30] Read-only file system" in ended.said
        assert len(stems.rows("SELECT * FROM quarantined")) == len(stems.quarantined()) == BROKEN
        again = run("--input", str(library))
        assert (again.code, again.counts("already_done", "quarantined", "failed")) == (0, (GOOD + BROKEN, 0, 0))
        assert audio_files.everything(library) == before


# -- the input vanishes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "why"), [("unplugged", "its drive is gone"), ("moved away", "there is no such folder any more")]
)
def test_an_input_that_vanishes_in_mid_run_stops_it_and_nothing_is_quarantined(
    way: str, why: str, workplace: Workplace, run: Run
) -> None:
    aside = workplace.folder / "aside"
    with contextlib.ExitStack() as stack:
        if way == "unplugged":
            stack.enter_context(mounted(workplace.input, memory_of("9m")))
            stack.enter_context(mounted(aside, ["--bind", str(workplace.input)]))
        write_many(workplace.input)
        write_text(workplace.input / "z_broken.wav")
        before = tree(workplace.input)
        vanish = unmount if way == "unplugged" else lambda folder: folder.rename(aside)
        ended = run("--batch-windows", "1", model=OnCall(2, lambda: vanish(workplace.input)))
        assert ended.code == 4
        assert f"the input folder {workplace.input} is gone: {why}. Nothing was moved for it" in ended.said
        assert "plug the drive in, or put the folder back, and run again" in ended.said
        assert ended.account["inserted"] >= 1
        assert ended.account["quarantined"] == 0
        assert ended.account["left"] > 0
        assert tree(aside) == before
        assert workplace.quarantined() == []
        if way == "unplugged":
            assert mount("--bind", str(aside), str(workplace.input))
        else:
            aside.rename(workplace.input)
        mended = run()
        assert (mended.code, mended.account["quarantined"], mended.account["failed"]) == (0, 1, 0)
        assert len(workplace.rows()) == 30


def test_a_folder_in_the_input_that_vanishes_fails_its_files_and_the_rest_goes_on(
    workplace: Workplace, run: Run
) -> None:
    write_many(workplace.input)
    write_many(workplace.input / "sub", 20, lowest_hz=305)  # no copies of those above
    aside = workplace.folder / "aside"
    ended = run("--batch-windows", "1", model=OnCall(1, lambda: (workplace.input / "sub").rename(aside)))
    assert (ended.code, ended.counts("inserted", "failed")) == (1, (30, 20))
    assert "it was moved or deleted, or its drive is gone: reconnect the drive or put the file back" in ended.said
    aside.rename(workplace.input / "sub")
    assert run().counts("already_done", "inserted") == (30, 20)


# -- locked database --------------------------------------------------------------------------------------------------

HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("SELECT count(*) FROM stems").fetchone()
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


@contextlib.contextmanager
def held_by_another_program(database: Path, statement: str, seconds: float) -> Iterator[None]:
    command = [sys.executable, "-c", HOLD, str(database), statement, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.kill()


@pytest.fixture
def half_done(stems: Workplace, run: Run) -> Workplace:
    """Two rows in the database, the other files to come."""
    assert run("--limit", "4").code == 0
    return stems


def test_a_database_that_is_locked_for_a_while_is_waited_for(half_done: Workplace, run: Run) -> None:
    with held_by_another_program(half_done.database, "BEGIN IMMEDIATE", seconds=3):
        assert_all_is_done(half_done, run())


def test_a_database_that_stays_locked_stops_the_run_and_the_next_one_completes(
    half_done: Workplace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_name(monkeypatch, "LOCKED_DATABASE_S", 1.0)
    before = good_files(half_done)
    with held_by_another_program(half_done.database, "BEGIN IMMEDIATE", seconds=60):
        ended = run()
    assert ended.code == 4
    assert f"{half_done.database}: database is locked; what was committed stays: another program holds it" in ended.said
    assert good_files(half_done) == before
    assert_all_is_done(half_done, run())


def test_a_lock_that_comes_in_mid_run_is_waited_for_too(half_done: Workplace, run: Run) -> None:
    stack = contextlib.ExitStack()
    lock = held_by_another_program(half_done.database, "BEGIN IMMEDIATE", seconds=2)
    with stack:
        assert_all_is_done(half_done, run(model=OnCall(1, lambda: stack.enter_context(lock))))


def test_a_program_that_begins_to_read_in_mid_run_does_not_hold_it_up(half_done: Workplace, run: Run) -> None:
    stack = contextlib.ExitStack()
    reader = held_by_another_program(half_done.database, "BEGIN", seconds=60)
    with stack:
        model = OnCall(1, lambda: stack.enter_context(reader))
        assert_all_is_done(half_done, run("--batch-windows", "1", model=model))


def test_a_program_that_reads_when_the_run_begins_is_waited_for(half_done: Workplace, run: Run) -> None:
    with held_by_another_program(half_done.database, "BEGIN", seconds=3):
        assert_all_is_done(half_done, run("--batch-windows", "1"))


# -- limits and permissions of the process ----------------------------------------------------------------------------


def run_with(place: Workplace, *flags: str, limit: Callable[[], None], faults: dict[str, Any] | None = None) -> Ended:
    """Run the program as a process of its own that calls `limit` before it begins; it ends by itself."""
    report = place.folder / "report.json"
    with place.start("--report", str(report), *flags, preexec_fn=limit, faults=faults) as process:
        try:
            _, stderr = process.communicate(timeout=90)
        finally:
            process.kill()
    return Ended(process.returncode, stderr, account_of(report) if report.exists() else {})


@pytest.mark.skipif(sys.platform != "linux", reason="counts what a run needs on Linux")
@pytest.mark.parametrize(("files", "workers"), [(8, 2), (12, 2), (24, 2), (32, 8)])
def test_too_few_open_files_end_the_run_with_the_limits_name_and_the_next_one_completes(
    files: int, workers: int, stems: Workplace, run: Run
) -> None:
    """At the database, at the workers' start, or when one more starts, if the work takes long enough for that."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    before = good_files(stems)
    ended = run_with(stems, "--workers", str(workers), limit=limit)
    assert ended.code == 4 or (ended.code == 0 and files > 20)
    assert ended.code == 0 or "`ulimit -n" in ended.said
    assert good_files(stems) == before
    mended = run()
    assert mended.code == 0
    assert stems.originals() == [f"good{number}.wav" for number in range(GOOD)]
    assert len(stems.rows("SELECT * FROM quarantined")) == len(stems.quarantined()) == BROKEN


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of open files that a process sets itself")
def test_a_worker_that_may_open_no_more_files_fails_files_and_the_next_run_completes(
    stems: Workplace, run: Run
) -> None:
    before = tree(stems.input)
    ended = run_with(stems, "--workers", "1", limit=lambda: None, faults={"few_files": ["broken0.wav"]})
    assert (ended.code, ended.counts("inserted", "quarantined", "failed")) == (1, (0, 0, GOOD + BROKEN))
    said = (
        r"Too many open files: '.+' "
        r"\(raise the limit of open files, for example with `ulimit -n 1024`, or use fewer --workers\)"
    )
    assert len(re.findall(said, ended.said)) == GOOD + BROKEN
    assert tree(stems.input) == before
    assert_all_is_done(stems, run())


needs_modes = pytest.mark.skipif(sys.platform != "linux", reason="root obeys no modes, and Windows has none")


@needs_modes
def test_what_may_not_be_read_fails_and_is_done_once_it_may(stems: Workplace, run: Run) -> None:
    write_many(stems.input / "closed", 3, lowest_hz=305)
    write_text(stems.input / "read_only" / "broken.wav")
    modes = {"good0.wav": 0o000, "closed": 0o000, "read_only": 0o555}
    for name, mode in modes.items():
        (stems.input / name).chmod(mode)
    ended = run_with(stems, limit=obey_modes)
    for name in modes:
        (stems.input / name).chmod(0o755)
    assert (ended.code, ended.counts("inserted", "quarantined", "failed")) == (1, (GOOD - 1, BROKEN + 1, 2))
    remedies = {
        "good0.wav": "failed, left where it is: PermissionError",
        "closed": "this folder cannot be listed",
        "broken.wav": "copied to quarantine, but cannot be removed here",
    }
    for name, what in remedies.items():
        (line,) = [
            line for line in ended.said.splitlines() if f"{name}: {what}: [Errno 13] Permission denied: " in line
        ]
        assert line.endswith(f"{name}' (give yourself permission, for example with chmod or chown)")
    assert run().counts("inserted", "quarantined", "failed") == (4, 0, 0)


@needs_modes
def test_a_log_that_alone_may_be_written_to_in_its_folder_will_do(stems: Workplace) -> None:
    log = stems.folder / "logs" / "a.log"
    log.parent.mkdir()
    log.touch()
    log.parent.chmod(0o555)
    ended = run_with(stems, "--log-file", str(log), limit=obey_modes)
    assert ended.code == 0, ended.said
    assert "rows written" in log.read_text()


@needs_modes
def test_an_output_that_may_not_be_written_to_is_said_before_anything_is_touched(stems: Workplace, run: Run) -> None:
    """Its lock file is there from an earlier run, and can be taken."""
    assert run("--limit", "2").code == 0
    before = tree(stems.input)
    folder = stems.quarantine
    folder.chmod(0o555)
    ended = run_with(stems, limit=obey_modes)
    folder.chmod(0o755)
    assert ended.code == 4
    said = f"{folder}: this output folder cannot be made or written to: [Errno 13] Permission denied: '{folder}/"
    assert said in ended.said
    assert "' (give yourself permission, for example with chmod or chown); no file was touched" in ended.said
    assert tree(stems.input) == before
    assert_all_is_done(stems, run())


# -- a drive that hangs -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hanging_drive(source: Path, mount_point: Path, hangs_at: str, cached_s: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A drive with the files of `source` that answers until it is asked for what the file `hangs_at` holds."""
    mount_point.mkdir()
    program = str(REPOSITORY / "tests" / "support" / "hanging_drive.py")
    command = [sys.executable, program, str(source), str(mount_point), hangs_at, str(cached_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as drive:
        assert drive.stdout is not None
        try:
            if drive.stdout.readline() != "mounted\n":
                pytest.skip("FUSE is not allowed here")
            yield drive
        finally:
            drive.kill()  # which sets free whoever waits for an answer
            subprocess.run(["umount", "--lazy", str(mount_point)], capture_output=True, check=False)


def test_a_process_that_has_asked_a_hanging_drive_can_end(stems: Workplace) -> None:
    mount_point = stems.folder / "drive"
    ask = "import sys; from stem_dataset import drives as d; d.STAT_S = 1; print(*map(d.answers, sys.argv[1:]))"
    command = [sys.executable, "-c", ask, str(mount_point / "good0.wav"), str(mount_point / "missing"), "/missing"]
    with hanging_drive(stems.input, mount_point, hangs_at="good3.wav") as drive:

        def answers() -> list[str]:
            return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30).stdout.split()

        assert answers() == ["True", "True", "True"]
        with subprocess.Popen(["cat", str(mount_point / "good3.wav")], stdout=subprocess.DEVNULL):
            assert answers() == ["False", "False", "True"]
            drive.kill()


def test_a_drive_that_hangs_fails_the_file_ends_the_run_and_leaves_no_process(stems: Workplace, run: Run) -> None:
    (stems.folder / "config.yaml").write_text("file_timeout_s: 0.5\n")
    sooner = {"constants": {"STAT_S": 0.5, "BACKSTOP_S": 0.5, "KILL_S": 0.5}}
    mount_point, said = stems.folder / "drive", stems.folder / "stderr.txt"
    before = tree(stems.input)
    with hanging_drive(stems.input, mount_point, hangs_at="good3.wav") as drive, open(said, "w") as stderr:
        # No pipe: the process that forks the workers has stderr too, and ends when the last of them can.
        process = stems.start("--input", str(mount_point), faults=sooner, stdout=stderr, stderr=stderr)
        try:
            assert process.wait(60) == 4
        finally:
            process.kill()
        assert drive.poll() is None
    assert f"the input folder {mount_point} is gone: its drive does not answer within 0.5 s" in said.read_text()
    assert "wav: failed, left where it is: MachineFault: its drive hangs" in said.read_text()
    assert tree(stems.input) == before
    assert wait_for_no_process_of(stems, 10) == []
    with mounted(mount_point, ["--bind", str(stems.input)]):  # plugged in again
        assert run("--input", str(mount_point)).counts("failed", "left") == (0, 0)
    assert (len(stems.rows()), len(stems.quarantined())) == (GOOD, BROKEN)


def test_a_drive_that_hangs_and_whose_files_status_is_remembered_is_not_the_files_fault(stems: Workplace) -> None:
    """The kernel tells their status from memory, so that all seems well: and whoever reads waits for ever."""
    (stems.folder / "config.yaml").write_text("file_timeout_s: 0.5\n")
    sooner = {"constants": {"STAT_S": 0.5, "BACKSTOP_S": 0.5, "KILL_S": 0.5}}
    mount_point, said = stems.folder / "drive", stems.folder / "stderr.txt"
    before = tree(stems.input)
    with hanging_drive(stems.input, mount_point, "good3.wav", cached_s=3_600), open(said, "w") as stderr:
        process = stems.start("--input", str(mount_point), faults=sooner, stdout=stderr, stderr=stderr)
        try:
            assert process.wait(60) in (1, 4)
        finally:
            process.kill()
    assert "its drive hangs" in said.read_text()
    assert "ERROR_Timeout" not in said.read_text()
    assert tree(stems.input) == before
    assert wait_for_no_process_of(stems, 10) == []
