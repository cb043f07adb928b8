"""Ctrl-C, SIGTERM and a closed terminal, from the first import on: exit 130, one line, and nothing moved."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from patching import replace_name
from prepare_dataset_sql import main
from stem_dataset.config import Config
from stem_dataset.errors import Interrupted
from stem_dataset.signals import INTERRUPTED_TEXT, STOP_SIGNALS, StopSignals
from workplace import REPOSITORY, Workplace, needs_proc, run_program, stand_in_environment, wait_for_log

FILES = 12
ERROR_LINE = f"error: {INTERRUPTED_TEXT}"
BEGINS = "begins"  # the log's first line

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@dataclass(frozen=True)
class Blow:
    """A signal, to whom it goes, and when: so long after the program handles signals, or after its log begins."""

    name: str
    whole_group: bool
    delay_s: float
    after_the_log_begins: bool = False

    def strike(self, process: subprocess.Popen[str], place: Workplace) -> None:
        wait_until_it_handles_signals(process)
        if self.after_the_log_begins:
            wait_for_log(place, BEGINS)
        time.sleep(self.delay_s)
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            (os.killpg if self.whole_group else os.kill)(process.pid, getattr(signal, self.name))


FROM_THE_START = [
    # Ctrl-C in a terminal
    *(Blow("SIGINT", True, delay_s) for delay_s in (0, 0.05, 0.2, 0.4, 0.6, 0.8, 1, 1.3, 1.6, 2, 2.5, 3, 4)),
    # a closed terminal, `kill`, and a service or a job of a batch system that is ended
    *(Blow("SIGHUP", True, delay_s) for delay_s in (0.1, 0.5, 1.1)),
    *(Blow("SIGTERM", False, delay_s) for delay_s in (0.1, 0.7, 1.8)),
    *(Blow("SIGTERM", True, delay_s) for delay_s in (0.3, 0.9, 1.4)),
]
FROM_THE_LOG = [
    Blow(name, whole_group, delay_s, True)
    for name, whole_group in (("SIGINT", True), ("SIGHUP", True), ("SIGTERM", False), ("SIGTERM", True))
    for delay_s in (0, 0.15)
]


def wait_until_it_handles_signals(process: subprocess.Popen[str]) -> None:
    """Wait until the program has its handlers: before, while Python itself starts, a signal has Python's own effect."""
    caught = 1 << (signal.SIGTERM - 1)  # which Python, by itself, does not handle
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        if int(re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[0], 16) & caught:
            return
        time.sleep(0.001)


def real_flags(place: Workplace, stand_in: Path, model_cache: Path) -> list[str]:
    clap = ["--checkpoint", str(stand_in / "stand-in.pt"), "--device", "cpu", "--model-cache", str(model_cache)]
    return [*place.flags(), *clap, "-q"]


def start_real(
    place: Workplace, stand_in: Path, model_cache: Path, scheduler: socket.socket | None = None
) -> subprocess.Popen[str]:
    """Start the program with the stand-in, in a process group of its own."""
    flags = real_flags(place, stand_in, model_cache)
    if scheduler is not None:
        flags += ["--scheduler", f"tcp://127.0.0.1:{scheduler.getsockname()[1]}"]
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "prepare_dataset_sql.py"), *flags],
        env=stand_in_environment(stand_in),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def assert_interrupted(process: subprocess.Popen[str], place: Workplace) -> None:
    """One line of ours, beside what is said about the model and the batch in hand; and every file is where it was."""
    _, stderr = process.communicate(timeout=60)
    lines = [line for line in stderr.splitlines() if not line.startswith("warning: ")]
    assert (process.returncode, lines) == (130, [ERROR_LINE]), stderr
    assert_nothing_moved(place)


def assert_nothing_moved(place: Workplace) -> None:
    assert len(list(place.input.iterdir())) == FILES
    assert place.quarantined() == []
    log = place.log_file.read_text(encoding="utf-8") if place.log_file.exists() else ""
    assert set(re.findall(r"(\d+) failed", log)) <= {"0"}


@pytest.fixture
def tones(workplace: Workplace) -> Workplace:
    for number in range(FILES):
        soundfile.write(workplace.input / f"kick_{number}.wav", np.sin(np.arange(9_600) / (20 + number)), 48_000)
    return workplace


@needs_proc
def test_one_signal_at_any_moment_ends_with_130_one_line_and_nothing_moved(
    tones: Workplace, stand_in: Path, model_cache: Path
) -> None:
    def strike(numbered: tuple[int, Blow]) -> tuple[Workplace, bool]:
        number, blow = numbered
        place = Workplace(tones.folder / str(number))
        shutil.copytree(tones.input, place.input)
        with start_real(place, stand_in, model_cache) as process:
            try:
                blow.strike(process, place)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)
                if process.returncode == 0:  # it was done before
                    return place, False
                assert_interrupted(process, place)
                return place, True
            except BaseException as error:
                process.kill()
                raise AssertionError(f"{blow}: {error}") from error

    with ThreadPoolExecutor(2) as threads:  # two programs at a time
        struck = list(threads.map(strike, enumerate([*FROM_THE_LOG, *FROM_THE_START])))
    assert all(was_interrupted for _, was_interrupted in struck[: len(FROM_THE_LOG)])
    place = struck[0][0]
    again = run_program(*real_flags(place, stand_in, model_cache), stand_in=stand_in)
    assert again.returncode == 0, again.stderr
    assert len(place.rows()) == FILES


AT_AN_IMPORT = """
import os, runpy, sys

program, number, module = sys.argv[1:]
sys.argv = [program]
sys.path.insert(0, os.path.dirname(program))  # as for a script that Python runs

class Striker:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), int(number))

sys.meta_path.insert(0, Striker())
runpy.run_path(program, run_name="__main__")
"""


@pytest.mark.parametrize("module", ["argparse", "numpy", "soundfile", "tqdm"])
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_during_the_programs_own_imports_is_one_line_too(number: int, module: str) -> None:
    arguments = [str(REPOSITORY / "prepare_dataset_sql.py"), str(int(number)), module]
    done = subprocess.run([sys.executable, "-c", AT_AN_IMPORT, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, f"{ERROR_LINE}\n")


def test_nohup_holds_during_the_programs_own_imports(tmp_path: Path) -> None:
    arguments = [str(REPOSITORY / "prepare_dataset_sql.py"), str(int(signal.SIGHUP)), "numpy"]
    done = subprocess.run(
        ["nohup", sys.executable, "-c", AT_AN_IMPORT, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert "no input" in done.stderr


@needs_proc
@pytest.mark.parametrize("delay_s", [0, 0.3, 0.6, 1])
def test_ctrl_c_while_workers_start_by_spawn_is_the_programs_alone(tones: Workplace, delay_s: float) -> None:
    """As on macOS, where each worker is a Python of its own that imports the program."""
    with tones.start("-q", faults={"spawn": True, "slow_s": 2}, start_new_session=True) as process:
        Blow("SIGINT", True, delay_s, after_the_log_begins=True).strike(process, tones)
        assert_interrupted(process, tones)
    assert "Traceback" not in tones.log_file.read_text(encoding="utf-8").partition("the run ends with")[0]


def test_ctrl_c_while_a_dask_scheduler_does_not_answer_is_heard(
    tones: Workplace, stand_in: Path, model_cache: Path
) -> None:
    """There, the program goes on as an imported module: it is another class that handles the signal."""
    with socket.create_server(("127.0.0.1", 0)) as deaf, start_real(tones, stand_in, model_cache, deaf) as process:
        deaf.settimeout(60)
        connection, _ = deaf.accept()
        os.killpg(process.pid, signal.SIGINT)
        assert_interrupted(process, tones)
        connection.close()
    log = tones.log_file.read_text(encoding="utf-8")
    assert "does not answer" not in log  # the program did not wait until it gave up


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_also_ends_the_workers_blames_no_file(tones: Workplace, name: str) -> None:
    with tones.start("-q", faults={"slow_file_s": 0.5}, start_new_session=True) as process:
        wait_for_log(tones, "the decoders work")
        os.killpg(process.pid, getattr(signal, name))
        assert_interrupted(process, tones)


def test_main_gives_the_former_handlers_back(tmp_path: Path) -> None:
    def handler(*_: object) -> None: ...

    former = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        assert main(["--version"]) == 0
        assert main(["--input", str(tmp_path / "nowhere")]) == 2
        assert {signal.getsignal(number) for number in former} == {handler}
    finally:
        for number, before in former.items():
            signal.signal(number, before)


def test_main_runs_in_a_thread_which_may_set_no_handlers(tmp_path: Path) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["--input", str(tmp_path / "nowhere")])))
    thread.start()
    thread.join()
    assert codes == [2]


def test_a_signal_before_the_run_stops_it_before_anything_is_made(
    tones: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_config(*arguments: object) -> Config:
        os.kill(os.getpid(), signal.SIGINT)
        return tones.config()

    replace_name(monkeypatch, "load_config", load_config)
    assert main([]) == 130
    assert capsys.readouterr().err == f"{ERROR_LINE}\n"
    assert list(tones.folder.iterdir()) == [tones.input]


def test_an_error_that_follows_a_signal_is_told_as_the_interruption() -> None:
    def fail(after_a_signal: bool) -> None:
        with StopSignals():
            if after_a_signal:
                os.kill(os.getpid(), signal.SIGTERM)
            raise EOFError("the fork server is gone")

    with pytest.raises(Interrupted) as caught:
        fail(after_a_signal=True)
    assert isinstance(caught.value.__cause__, EOFError)
    with pytest.raises(EOFError):
        fail(after_a_signal=False)


def test_a_signal_within_stops_what_is_around_it_too() -> None:
    with StopSignals() as outer:
        with StopSignals(outer):
            os.kill(os.getpid(), signal.SIGTERM)
        assert outer.requested
        with StopSignals(outer) as later, pytest.raises(Interrupted):
            later.check()
