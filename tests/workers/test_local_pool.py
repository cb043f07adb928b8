"""Workers that die, hang or take too much memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing.connection
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import deadly_work
import prepare_dataset_sql as product
from audio_files import write_tone
from fake_clap import FakeClap
from patching import replace_name
from pools import linux_only, run_with
from stem_dataset.datatypes import FoundFile
from stem_dataset.errors import MachineFault, RunStopped
from stem_dataset.workers.local_pool import Flight, LocalBackend, LocalWorker
from stem_dataset.workers.tasks import Death, TaskReport, Work, exit_text, reports_of, time_limit_s
from workplace import REPOSITORY, Workplace, needs_proc, processes_of, wait_for_log, wait_for_no_process_of

needs_signals = pytest.mark.skipif(os.name != "posix", reason="SIGSTOP and SIGKILL")


@pytest.fixture
def few(workplace: Workplace, library: Path) -> Workplace:
    """Ten valid files, and a timeout of two seconds."""
    for file in sorted((library / "stems" / "Drums").rglob("*.wav"))[:10]:
        shutil.copy(file, workplace.input)
    (workplace.folder / "config.yaml").write_text("file_timeout_s: 3\n", encoding="utf-8")
    return workplace


def names(place: Workplace) -> list[str]:
    return sorted(path.name for path in place.input.iterdir())


def error_of(place: Workplace, quarantined: str) -> dict[str, str]:
    entry = json.loads((place.quarantine / f"{quarantined}.json").read_text(encoding="utf-8"))
    error: dict[str, str] = entry["error"]
    return error


# -- time -------------------------------------------------------------------------------------------------------------


@needs_proc
@pytest.mark.parametrize("how", ["hang_in_c", "stop"])
def test_a_file_on_which_a_worker_hangs_is_quarantined_and_no_process_is_left(few: Workplace, how: str) -> None:
    """In C code that holds the interpreter's lock, and stopped, the thread of the worker's timer too: that one only the
    parent ends."""
    files = names(few)
    exit_code, account, stderr = run_with(few, {how: [files[3]]})
    assert exit_code == 0, stderr
    assert (account["quarantined"], account["failed"], account["inserted"]) == (1, 0, len(files) - 1)
    assert few.quarantined() == [f"ERROR_Timeout_{files[3]}"]
    assert "not done after 3 s, twice" in error_of(few, f"ERROR_Timeout_{files[3]}")["message"]
    assert processes_of(few) == []
    assert ("Timeout (0:00:03" in few.log_file.read_text(encoding="utf-8")) == (how != "stop")  # where it hung


@needs_proc
@pytest.mark.parametrize("answers", [0, 1], ids=["at the first hang", "at the second"])
def test_a_hang_on_a_drive_that_does_not_answer_is_the_machines(few: Workplace, answers: int) -> None:
    files = names(few)
    exit_code, account, stderr = run_with(few, {"hang": [files[3]], "deaf": {files[3]: answers}})
    assert exit_code == 1, stderr
    assert (account["quarantined"], account["failed"], account["inserted"]) == (0, 1, len(files) - 1)
    assert f"{files[3]}: failed, left where it is" in stderr
    assert "its drive hangs" in stderr
    assert few.quarantined() == []
    assert processes_of(few) == []
    assert run_with(few, {})[:2][0] == 0
    assert len(few.rows()) == len(files)


def test_a_file_may_take_a_second_longer_a_megabyte(workplace: Workplace) -> None:
    run_context = product.DatasetPreparer(workplace.config(file_timeout_s=5.0), show_progress=False)._run_context
    assert time_limit_s(FoundFile("/a.wav", 3_500_000, 1), run_context) == 8.5


# -- death ------------------------------------------------------------------------------------------------------------


def some_name(place: Workplace) -> str:
    return sorted(path.name for path in place.input.rglob("*.wav"))[3]


def test_a_worker_that_dies_costs_only_the_guilty_file(drums: Workplace) -> None:
    guilty = some_name(drums)
    result = drums.execute("--report", "report.json", faults={"die": {guilty: int(signal.SIGSEGV)}})
    assert result.returncode == 0, result.stderr
    report = json.loads((drums.folder / "report.json").read_text())
    assert (report["quarantined"], report["failed"]) == (1, 0)
    assert report["inserted"] == report["found"] - 1
    assert drums.quarantined() == [f"ERROR_WorkerDied_{guilty}"]
    entry = json.loads((drums.quarantine / f"ERROR_WorkerDied_{guilty}.json").read_text())
    assert "SIGSEGV" in entry["error"]["message"]
    assert "Segmentation fault" in drums.log_file.read_text()  # faulthandler's traceback


def test_only_the_file_that_the_dead_worker_had_begun_is_tried_again(drums: Workplace) -> None:
    drums.execute(faults={"die": {some_name(drums): int(signal.SIGSEGV)}})
    assert "1 files are tried again, one at a time\n" in drums.log_file.read_text(encoding="utf-8")


def test_a_worker_that_exits_is_told_from_one_that_is_killed(drums: Workplace) -> None:
    guilty = some_name(drums)
    assert drums.execute(faults={"exit": {guilty: 3}}).returncode == 0
    entry = json.loads((drums.quarantine / f"ERROR_WorkerDied_{guilty}.json").read_text())
    assert "exit code 3" in entry["error"]["message"]


def test_a_worker_that_dies_after_it_has_quarantined_a_file_loses_no_verdict(drums: Workplace) -> None:
    (drums.input / "broken.wav").write_text("no audio")
    result = drums.execute("--report", "report.json", faults={"die_after": ["broken.wav"]})
    assert result.returncode == 0, result.stderr
    report = json.loads((drums.folder / "report.json").read_text())
    assert (report["quarantined"], report["failed"], report["inserted"]) == (1, 0, report["found"] - 1)
    assert drums.quarantined() == ["ERROR_LibsndfileError_broken.wav"]
    assert len(drums.rows("SELECT * FROM quarantined")) == 1


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL, and the pipe that a worker's result goes through")
def test_a_worker_killed_while_it_sends_its_result_blocks_nobody(drums: Workplace, library: Path) -> None:
    shutil.copytree(library / "stems" / "Full Pieces", drums.input / "pieces")  # 3 MB of windows: over a pipe's 64 kB
    long_file = next((drums.input / "pieces").iterdir()).name
    files = len(list(drums.input.rglob("*.*")))
    result = drums.execute(faults={"die_sending": [long_file]})
    assert result.returncode == 1, result.stderr  # SIGKILL: nobody's fault but the machine's
    assert len(drums.rows()) == files - 1
    assert drums.quarantined() == []


@pytest.mark.skipif(sys.platform != "linux", reason="workers start by forkserver on Linux alone")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_that_dies_while_another_one_starts_blocks_nobody(few: Workplace, moment: str) -> None:
    """The executor's thread knows nothing of the new process, which `shutdown` then waited for without an end, or
    finds its own pipes closed under `submit`."""
    exit_code, account, stderr = run_with(few, {"die_at_start": moment})
    assert exit_code == 0, stderr
    assert account["inserted"] == len(names(few))
    assert processes_of(few) == []


def test_a_worker_that_dies_between_copying_a_file_to_quarantine_and_removing_it_leaves_it_in_one_place(
    few: Workplace,
) -> None:
    (few.input / "broken.wav").write_text("no audio")
    exit_code, account, stderr = run_with(few, {"die_copied": ["broken.wav"]})
    assert (exit_code, account["quarantined"], account["failed"]) == (0, 1, 0), stderr
    assert few.quarantined() == ["ERROR_LibsndfileError_broken.wav"]
    assert "broken.wav" not in names(few)


def test_what_is_done_while_the_model_is_slow_is_not_overdue(few: Workplace) -> None:
    """The pool is not looked at while a batch before is embedded, for minutes on a slow machine."""
    run_context = product.DatasetPreparer(few.config(), show_progress=False)._run_context
    done: Future[list[TaskReport]] = Future()
    found = FoundFile("/a.wav", 1, 1)
    done.set_result([TaskReport(found)])
    few.log_file.parent.mkdir()
    with contextlib.closing(LocalBackend(1, run_context, few.log_file)) as backend:
        assert backend.self_test().result() is None
        worker = backend.workers[0]
        worker.flights.append(Flight(product._process_file, found, done, begun_s=-1e9))
        assert backend.wait() == [TaskReport(found)]
        assert worker.killed_s is None


def test_an_error_on_the_way_from_the_worker_is_no_verdict() -> None:
    future: Future[list[TaskReport]] = Future()
    future.set_exception(MemoryError("while pickling"))
    (report,) = reports_of(future, [FoundFile("/a/kick.wav", 1, 1)])
    assert str(report.fault) == "MemoryError: while pickling (free some memory, or use fewer --workers)"


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert exit_text(-11) == "signal 11 (SIGSEGV)"
    assert exit_text(-40) == "signal 40 (no name)"


@needs_signals
def test_two_files_that_kill_are_both_found_and_all_others_pass(few: Workplace) -> None:
    files = names(few)
    guilty = {files[1]: int(signal.SIGSEGV), files[2]: int(signal.SIGABRT)}
    exit_code, account, stderr = run_with(few, {"die": guilty})
    assert exit_code == 0, stderr
    assert (account["quarantined"], account["inserted"]) == (2, len(files) - 2)
    for name, number in guilty.items():
        assert signal.Signals(number).name in error_of(few, f"ERROR_WorkerDied_{name}")["message"]


@needs_signals
def test_nothing_is_embedded_while_a_suspect_is_alone(few: Workplace) -> None:
    """A model that fills the memory would get an innocent file's worker killed."""
    files = names(few)
    busy: list[str] = []
    retried: list[str] = []

    class Watched(LocalBackend):
        def retry_alone(self, work: Work, found: FoundFile) -> None:
            if preparer.embedder.vectors is not None:
                busy.append(found.path)
            super().retry_alone(work, found)
            retried.append(Path(found.path).name)

    slow = FakeClap()
    slow.seconds_a_call = 0.3
    preparer = product.DatasetPreparer(few.config(batch_windows=1), lambda *_: slow, show_progress=False)
    with pytest.MonkeyPatch.context() as patch:
        replace_name(patch, "LocalBackend", Watched)
        patch.setattr(LocalWorker, "give", dying_once(LocalWorker.give, files[2]))
        assert preparer.run().inserted == len(files)
    assert busy == []
    assert len(retried) == 1


def dying_once(give: Any, name: str) -> Any:
    """Return `LocalWorker.give` that kills the worker once, when that file's turn comes."""
    killed: list[int] = []

    def give_and_kill(self: LocalWorker, flight: Flight) -> None:
        give(self, flight)
        if flight.found.path.endswith(name) and not killed:
            assert self.context.process is not None
            self.context.process.kill()
            killed.append(1)

    return give_and_kill


OUTSIDE = [name for name in ("SIGKILL", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@needs_signals
def test_what_somebody_else_ends_is_no_file_s_fault(few: Workplace) -> None:
    """earlyoom and a container's end come as SIGTERM first."""
    files = names(few)
    deadly = {file: int(getattr(signal, name)) for file, name in zip(files, OUTSIDE, strict=False)}
    exit_code, account, stderr = run_with(few, {"die": deadly})
    assert (exit_code, account["failed"], account["quarantined"]) == (1, len(OUTSIDE), 0), stderr
    assert all(name in stderr for name in OUTSIDE)
    assert "out of memory, most likely" in stderr
    assert run_with(few, {})[1]["inserted"] == len(OUTSIDE)


@pytest.mark.parametrize("problem", ["the log's folder is gone", "the decoder is broken"])
def test_where_no_new_worker_can_do_its_work_no_file_is_blamed(
    few: Workplace, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk with the log unplugged, a program replaced while it runs: each new worker dies or fails at its start."""
    log = few.folder / "elsewhere" / "a.log"
    spoilt: list[int] = []

    def give_and_spoil(self: LocalWorker, flight: Flight) -> None:
        if self.given == 1 and not spoilt:
            spoilt.append(1)
            if problem == "the decoder is broken":
                monkeypatch.setattr(LocalWorker, "self_test", lambda self: self.executor.submit(str, "WAV: no"))
            else:
                shutil.rmtree(log.parent)
        give(self, flight)

    give = LocalWorker.give
    monkeypatch.setattr(LocalWorker, "give", give_and_spoil)
    replace_name(monkeypatch, "FILES_PER_PROCESS", 2)
    with pytest.raises(RunStopped, match="no new worker process can do its work"):
        few.run(log_file=log)
    assert few.quarantined() == []
    assert len(names(few)) == 10


# -- memory -----------------------------------------------------------------------------------------------------------


@linux_only
def test_a_file_that_takes_too_much_memory_is_quarantined_and_the_others_pass(few: Workplace) -> None:
    files = names(few)
    exit_code, account, stderr = run_with(few, {"hungry": {files[3]: 20_000}})
    assert exit_code == 0, stderr
    assert (account["quarantined"], account["failed"], account["inserted"]) == (1, 0, len(files) - 1)
    error = error_of(few, f"ERROR_TooMuchMemory_{files[3]}")
    assert "worker_memory_mb" in error["message"]
    assert "18.6 GiB" in error["message"]


@linux_only
def test_what_fits_the_limit_is_no_suspect(few: Workplace) -> None:
    files = names(few)
    (few.folder / "config.yaml").write_text("worker_memory_mb: 400\n", encoding="utf-8")
    hungry = {"hungry": {files[3]: 200}, "measure": True}
    assert run_with(few, hungry)[1]["inserted"] == len(files)
    assert "tried again" not in few.log_file.read_text(encoding="utf-8")


def test_without_a_limit_the_memory_that_lacks_is_the_machines(few: Workplace) -> None:
    preparer = product.DatasetPreparer(few.config(), show_progress=False)
    run_context = dataclasses.replace(preparer._run_context, worker_memory_bytes=None)
    file = few.input / names(few)[0]
    found = FoundFile(str(file), file.stat().st_size, file.stat().st_mtime_ns)
    for error in (MemoryError("boom"), soundfile.LibsndfileError(17)):
        with pytest.MonkeyPatch.context() as patch:
            replace_name(patch, "analyse", raising(error))
            with pytest.raises(MachineFault):
                product._process_file(found, run_context)
            with pytest.raises(MemoryError):
                product._process_file(found, dataclasses.replace(run_context, worker_memory_bytes=10**9))
    assert file.exists()


def raising(error: Exception) -> Any:
    def fail(*_: Any) -> None:
        raise error

    return fail


@linux_only
def test_an_mp3_whose_tag_wants_256_mb_ends_within_the_limit(workplace: Workplace) -> None:
    """libmpg123 reads a whole ID3v2 tag into memory, and its header may claim as much: with a limit it is skipped."""
    tone = np.sin(np.arange(44_100) / 20) * 0.3
    soundfile.write(workplace.input / "tone.mp3", tone, 44_100)
    audio = (workplace.input / "tone.mp3").read_bytes()
    size = 2**28 - 1
    with open(workplace.input / "tone.mp3", "wb") as file:
        file.write(b"ID3\x04\0\0" + syncsafe(size) + b"COMM" + syncsafe(size - 20) + b"\0\0\0eng\0")
        file.seek(10 + size)  # a hole: it takes no room on the disk
        file.write(audio)
    (workplace.folder / "config.yaml").write_text("worker_memory_mb: 200\n", encoding="utf-8")
    exit_code, account, stderr = run_with(workplace, {"measure": True})
    assert (exit_code, account["inserted"]) == (0, 1), stderr
    assert "Unable to allocate 268435456 bytes" in workplace.log_file.read_text(encoding="utf-8")


def syncsafe(number: int) -> bytes:
    """Return ID3v2's 28 bits in four bytes of seven."""
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


@linux_only
def test_a_limit_of_the_shell_is_not_exceeded() -> None:
    code = (
        "import resource; from stem_dataset.workers import worker; "
        "resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40)); "
        "worker.limit_memory(2**41); print(*resource.getrlimit(resource.RLIMIT_AS))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(2**40), str(2**40)]


# -- renewal ----------------------------------------------------------------------------------------------------------


def test_a_process_is_replaced_after_so_many_files_and_nothing_is_lost(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):  # each of another size, so that none is hashed first
        write_tone(workplace.input / f"{number}.wav", seconds=0.05 + number / 100)
    opened: Iterator[int] = iter(range(100))
    new_executor = LocalWorker._new_executor

    def counted(self: LocalWorker) -> Any:
        next(opened)
        return new_executor(self)

    replace_name(monkeypatch, "FILES_PER_PROCESS", 4)
    monkeypatch.setattr(LocalWorker, "_new_executor", counted)
    assert workplace.run(workers=1).inserted == 10
    assert next(opened) == 3  # 4, 4 and 2 files


# -- executors that are left behind ------------------------------------------------------------------------------------


def outcomes_of(backend: LocalBackend) -> list[TaskReport | Death]:
    """Wait until something has come of the files in flight."""
    deadline_s = time.monotonic() + 30
    while not (outcomes := backend.wait()):
        assert time.monotonic() < deadline_s
    return outcomes


@pytest.fixture
def one_worker(few: Workplace) -> Iterator[LocalBackend]:
    """A backend of one worker that is ready. Once it is closed, none of its threads is left."""
    few.log_file.parent.mkdir()
    run_context = product.DatasetPreparer(few.config(file_timeout_s=10.0), show_progress=False)._run_context
    before = set(threading.enumerate())
    with contextlib.closing(LocalBackend(1, run_context, few.log_file)) as backend:
        assert backend.self_test().result() is None
        yield backend
    deadline_s = time.monotonic() + 10
    while left := set(threading.enumerate()) - before:  # Python would wait for them at its end
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)


FOUND = FoundFile("/a.wav", 1, 1)


@needs_signals
def test_half_a_result_is_a_death_and_the_file_behind_it_is_done(one_worker: LocalBackend) -> None:
    assert one_worker.start(deadly_work.die_while_sending, iter([FOUND])) == 1
    behind = dataclasses.replace(FOUND, path="/b.wav")
    assert one_worker.start(deadly_work.answer, iter([behind, FOUND])) == 1  # two are in flight
    (death,) = outcomes_of(one_worker)
    assert isinstance(death, Death)
    assert "signal 9 (SIGKILL)" in str(death.error)
    assert outcomes_of(one_worker) == [TaskReport(behind, sha256="00")]


@needs_signals
def test_half_a_result_does_not_keep_the_pool_from_closing(one_worker: LocalBackend) -> None:
    one_worker.start(deadly_work.die_while_sending, iter([FOUND]))
    assert multiprocessing.connection.wait([process_of(one_worker).sentinel], 30)
    began_s = time.monotonic()
    one_worker.close()
    assert time.monotonic() - began_s < 5


@needs_signals
def test_a_process_that_cannot_be_killed_is_left_behind_and_the_drive_is_blamed(
    one_worker: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"BACKSTOP_S": 0.1, "KILL_S": 0.1}.items():
        replace_name(monkeypatch, name, seconds)
    process = process_of(one_worker)
    with monkeypatch.context() as patch:
        patch.setattr(process, "kill", lambda: None)
        found = dataclasses.replace(FOUND, size_bytes=-9_000_000)  # 10 s, less a second per megabyte
        one_worker.start(deadly_work.stop, iter([found]))
        (death,) = outcomes_of(one_worker)
    assert isinstance(death, Death)
    assert isinstance(death.error, MachineFault)
    assert "its drive hangs" in str(death.error)
    one_worker.retry_alone(deadly_work.answer, FOUND)  # in another process
    assert outcomes_of(one_worker) == [TaskReport(FOUND, sha256="00")]
    process.kill()  # the drive answers at last


def process_of(backend: LocalBackend) -> BaseProcess:
    process = backend.workers[0].context.process
    assert process is not None
    return process


@needs_signals
def test_a_worker_that_dies_idle_costs_nothing(one_worker: LocalBackend) -> None:
    process_of(one_worker).kill()
    time.sleep(0.5)
    one_worker.start(deadly_work.answer, iter([FOUND]))
    assert outcomes_of(one_worker) == [TaskReport(FOUND, sha256="00")]


@linux_only
@pytest.mark.parametrize(("hard", "expected"), [(4_096, 928), (300, 300)])
def test_hundreds_of_workers_may_open_the_files_that_they_need(hard: int, expected: int) -> None:
    code = (
        "import resource; from stem_dataset.workers import local_pool; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard})); local_pool._allow_descriptors(2); "
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE)); local_pool._allow_descriptors(100); "
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["256", str(hard), str(expected), str(hard)]


# -- the parent -------------------------------------------------------------------------------------------------------


@needs_proc
@pytest.mark.parametrize("start_method", [{}, {"spawn": True}], ids=["forkserver", "spawn"])
def test_workers_end_with_a_parent_that_is_killed(drums: Workplace, start_method: dict[str, bool]) -> None:
    names = [path.name for path in drums.input.rglob("*.*")]
    with drums.start(faults={"hang": names, **start_method}) as process:
        wait_for_log(drums, "the decoders work")
        time.sleep(1)
        assert len(processes_of(drums)) >= 3  # the program and its workers at least
        process.kill()
    assert wait_for_no_process_of(drums, 10) == []


@needs_proc
def test_a_whole_run_goes_well_with_spawned_workers(drums: Workplace) -> None:
    assert drums.execute(faults={"spawn": True, "measure": True}).returncode == 0
    assert len(drums.rows()) == len(list(drums.input.rglob("*.*")))
