"""What a person sees: the bar on a terminal, the lines without one, the account at the end."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import sqlite3
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from pages import page
from stem_dataset.config import Config
from stem_dataset.progress import Bar, Progress, Standing
from stem_dataset.signals import StopSignals
from workplace import Workplace

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")


def open_terminal(columns: int = 120) -> tuple[int, int]:
    """Return both ends of a terminal: the one that reads what is drawn, and the program's."""
    import fcntl
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    return master, slave


def run_on_a_terminal(
    place: Workplace, faults: dict[str, object], *flags: str, columns: int = 120
) -> list[tuple[float, str]]:
    """Run the program with stderr on a terminal; return what it draws, with the time in seconds."""
    master, slave = open_terminal(columns)
    started = time.monotonic()
    drawn: list[tuple[float, str]] = []
    with place.start(*flags, faults=faults, stderr=slave):
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


def test_the_bar_is_readable_at_60_columns(few: Workplace) -> None:
    drawn = run_on_a_terminal(few, {"slow_file_s": 0.3, "slow_s": 2}, "--batch-windows", "4", columns=60)
    bars = {bar for _, text in drawn for bar in re.split(r"[\r\n]", text) if "|" in bar}
    assert max(map(len, bars)) <= 60
    embedding = sorted(bar for bar in bars if "embedding" in bar)
    layout = re.compile(r" *\d+%\|.{10,}\| \d/9 \[\d\d:\d\d<(\d\d:\d\d|\?)\] embedding *")
    assert embedding
    assert [bar for bar in embedding if not layout.fullmatch(bar)] == []


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


SLOWLY = {"slow_s": 0.7}  # with --batch-windows 2: four batches, so that there are commits before and after

LINE = re.compile(
    r"(\d) of 9 files \((\d+) %\), (decoding|embedding \d windows|loading CLAP), \d+\.\d files/s, "
    r"(about \d\d:\d\d left|time left unknown)"
)


def test_without_a_terminal_a_line_comes_at_each_quarter(few: Workplace) -> None:
    result = few.execute("--batch-windows", "2", faults={**SLOWLY, "constants": {"LINE_EVERY_S": 3600.0}})
    found = [match for line in result.stderr.splitlines() if (match := LINE.fullmatch(line))]
    quarters = [int(match[2]) // 25 for match in found]
    assert quarters == sorted(set(quarters))
    assert 2 <= len(quarters) <= 3  # 75 % may come with the last batch, whose line is the account
    assert all("about" in match[4] for match in found)
    log = few.log_file.read_text(encoding="utf-8")
    assert all(match[0] in log for match in found)


def test_without_a_terminal_a_line_comes_at_each_interval(few: Workplace) -> None:
    result = few.execute(faults={"slow_s": 4, "constants": {"LINE_EVERY_S": 1.0}})
    found = [match for line in result.stderr.splitlines() if (match := LINE.fullmatch(line))]
    embedding = [match[3] for match in found if match[3].startswith("embedding 8")]
    assert len(embedding) >= 3


def test_json_lines_on_stdout_say_the_same(few: Workplace) -> None:
    result = few.execute("--progress", "json", "--batch-windows", "2", faults=SLOWLY)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["done"] for line in lines] == sorted({line["done"] for line in lines})
    assert len(lines) >= 3
    assert {line["total"] for line in lines} == {9}
    assert lines[0]["left_s"] > lines[-1]["left_s"] == 0
    assert lines[-1]["done"] == 9
    assert lines[-1]["elapsed_s"] > lines[0]["elapsed_s"] > 0
    assert set(lines[0]) == {"done", "total", "decoded", "activity", "elapsed_s", "files_per_s", "left_s"}
    assert not any(LINE.fullmatch(line) for line in result.stderr.splitlines())


def test_the_page_on_progress_shows_lines_bar_and_json_as_they_are() -> None:
    text = page("docs/progress.md")
    (content,) = [json.loads(line) for line in text.splitlines() if line.startswith('{"done"')]
    del content["files_per_s"]
    standing = Standing(**content)
    assert standing.as_json() in text
    layout = Bar.layout(standing, columns=60)
    assert tqdm.format_meter(158, 400, 68.4, ncols=60, bar_format=layout).rstrip() in text
    shown = re.findall(r"^\d+ of \d+ files .*$", text, re.MULTILINE)
    assert len(shown) == 3
    assert all(
        re.fullmatch(
            LINE.pattern.replace(r"(\d) of 9", r"\d+ of 200").replace(r"embedding \d ", r"embedding \d+ "), line
        )
        for line in shown
    )


def test_progress_none_says_nothing_between_the_first_line_and_the_account(few: Workplace) -> None:
    result = few.execute("--progress", "none", "--batch-windows", "2", faults=SLOWLY)
    assert result.stdout == ""
    assert not any(LINE.fullmatch(line) for line in result.stderr.splitlines())


def test_a_closed_pipe_on_stdout_costs_the_json_and_not_the_run(few: Workplace) -> None:
    reader, writer = os.pipe()
    with few.start("--progress", "json", "--batch-windows", "2", stdout=writer, faults=SLOWLY) as process:
        os.close(writer)
        os.close(reader)
        assert process.wait(60) == 0
    assert_all_is_done(few)


def test_lines_come_every_30_seconds_and_at_each_quarter(caplog: pytest.LogCaptureFixture) -> None:
    now_s = [0.0]
    progress = Progress(Config(progress="lines"), True, StopSignals(), lambda: now_s[0])
    with caplog.at_level("INFO"), progress.over(100):
        for second in range(100):
            now_s[0] = float(second)
            progress.tick()
            if second in (40, 50):
                progress.advance(30)
        progress.advance(40)
    lines = [
        (record.getMessage().split()[0], record.getMessage().partition("(")[2].partition(" ")[0])
        for record in caplog.records
    ]
    # At 30 s; a quarter at 40; a half at 50; then every 30 s. The end is the account's.
    assert lines == [("0", "0"), ("30", "30"), ("60", "60"), ("60", "60")]


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
    with few.start(stderr=writer, faults={"slow_s": 1}) as process:
        os.close(writer)
        os.close(reader)
        assert process.wait(60) == 0
    assert len(few.rows()) == 8


def wait_for_a_row(place: Workplace) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(sqlite3.OperationalError):  # the schema is not there yet
            if place.database.exists() and place.rows("SELECT id FROM stems"):
                return
        time.sleep(0.05)
    raise AssertionError("no row within a minute")


def assert_all_is_done(place: Workplace) -> None:
    assert len(place.rows()) == 8
    assert place.quarantined() == ["ERROR_LibsndfileError_empty.wav"]
    assert "found 9: 0 already done, 8 inserted, 1 quarantined" in place.log_file.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_what_shows_the_bar_may_die_in_mid_run(kind: str, few: Workplace) -> None:
    reader, writer = open_terminal() if kind == "terminal" else os.pipe()
    with few.start("--batch-windows", "2", faults=SLOWLY, stderr=writer) as process:
        os.close(writer)
        wait_for_a_row(few)
        shown = os.read(reader, 65536).decode()
        os.close(reader)
        assert process.wait(60) == 0
    assert ("decoded" in shown) == (kind == "terminal")  # the bar was there
    assert_all_is_done(few)


def test_a_terminal_that_is_closed_ends_its_run_in_order(few: Workplace) -> None:
    """The run's own terminal: the kernel sends SIGHUP, and every write fails from then on."""
    import fcntl
    import termios

    master, slave = open_terminal()
    own_terminal: Any = {
        "stderr": slave,
        "start_new_session": True,
        "preexec_fn": lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
    }
    with few.start("--batch-windows", "2", faults=SLOWLY, **own_terminal) as process:
        os.close(slave)
        wait_for_a_row(few)
        os.close(master)
        assert process.wait(60) == 130
    assert 1 <= len(few.rows()) <= 8
    assert "found 9:" in few.log_file.read_text(encoding="utf-8")
    few.run()
    assert len(few.rows()) == 8


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_behind_stderr_costs_the_lines_and_not_the_run(few: Workplace) -> None:
    with open("/dev/full", "w") as full, few.start(stderr=full) as process:
        assert process.wait(60) == 0
    assert_all_is_done(few)
