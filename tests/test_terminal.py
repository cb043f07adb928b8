"""What a person sees: the bar on a terminal, the lines without one, the account at the end."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import struct
import time
from pathlib import Path

import pytest

from conftest import Workplace

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")


def run_on_a_terminal(place: Workplace, faults: dict[str, object]) -> list[tuple[float, str]]:
    """Run the program with stderr on a terminal of 120 columns; return what it draws, with the time in seconds."""
    import fcntl
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    started = time.monotonic()
    drawn: list[tuple[float, str]] = []
    with place.start(faults=faults, stderr=slave):
        os.close(slave)
        while True:
            try:
                text = os.read(master, 65536).decode("utf-8", "replace")
            except OSError:  # the other side is closed
                break
            drawn.append((time.monotonic() - started, text))
    os.close(master)
    return drawn


@pytest.fixture
def few(workplace: Workplace, library: Path) -> Workplace:
    """Eight valid files and an empty one."""
    for file in sorted((library / "stems" / "Drums").rglob("*.wav"))[:8]:
        shutil.copy(file, workplace.input)
    (workplace.input / "empty.wav").touch()
    return workplace


def test_the_bars_clock_moves_every_second_and_names_both_phases(few: Workplace) -> None:
    drawn = run_on_a_terminal(few, {"slow_file_s": 0.7, "slow_s": 4})
    bars = [(at, text) for at, text in drawn if "file" in text and "|" in text]
    embedding = [at for at, text in bars if "embedding 8 windows" in text]
    decoding = [at for at, text in bars if "decoding" in text and at < embedding[0]]
    for times, at_least_s in ((decoding, 2.0), (embedding, 3.0)):
        gaps = sorted(later - earlier for earlier, later in itertools.pairwise(times))
        assert times[-1] - times[0] > at_least_s
        assert gaps[len(gaps) * 9 // 10] < 1.0  # nine in ten: another program may have had the core
    clocks = {clock for _, text in bars if "embedding" in text for clock in re.findall(r"\[(\d\d:\d\d)<", text)}
    assert len(clocks) >= 3


def test_log_lines_do_not_break_the_bar(few: Workplace) -> None:
    text = "".join(text for _, text in run_on_a_terminal(few, {}))
    lines = [line.rpartition("\r")[2] for line in text.split("\r\n")]
    assert sum("quarantined as ERROR_LibsndfileError_empty.wav" in line for line in lines) == 1
    assert not any("|" in line for line in lines if "quarantined as" in line)


def test_without_a_terminal_there_is_no_bar_but_short_lines_and_the_account(few: Workplace) -> None:
    result = few.execute()
    assert result.returncode == 0
    assert result.stdout == ""
    assert "\r" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[0] == "0 already processed, 9 new"
    account = "found 9: 0 already done, 8 inserted, 1 quarantined, 0 failed, 0 ignored; # s, # files/s"
    assert re.sub(r"\d+\.\d+", "#", lines[2]) == account
    assert [line.split() for line in lines[3:]] == [
        ["database", str(few.database)],
        ["stems", str(few.wavs)],
        ["quarantine", str(few.quarantine)],
        ["log_file", str(few.log_file)],
    ]


def test_the_log_file_holds_the_workers_lines_and_the_account(few: Workplace) -> None:
    few.execute("-q")
    log = few.log_file.read_text(encoding="utf-8")
    assert re.search(r"ERROR ForkServerProcess-\d+: .*empty.wav: quarantined as|ERROR SpawnProcess-", log)
    assert "found 9: 0 already done, 8 inserted" in log


def test_quiet_says_only_what_went_wrong(few: Workplace) -> None:
    lines = few.execute("-q").stderr.splitlines()
    assert len(lines) == 1
    assert "empty.wav: quarantined" in lines[0]


def test_a_closed_terminal_costs_the_lines_and_not_the_run(few: Workplace) -> None:
    reader, writer = os.pipe()
    process = few.start(stderr=writer, faults={"slow_s": 1})
    os.close(writer)
    os.close(reader)
    assert process.wait(60) == 0
    assert len(few.rows()) == 8
