"""What the log file holds when a run ends with an error of the program."""

from __future__ import annotations

import errno
import importlib.metadata
import sqlite3
import subprocess
import sys
from typing import Any

import pytest
import soundfile

from patching import replace_name
from prepare_dataset_sql import main
from stem_dataset import __version__
from stem_dataset.logs import LIBRARIES
from workplace import REPOSITORY, Workplace

BEGIN, END = "---- copy from here into a bug report\n", "\n---- to here"


def ended_by(error: Exception, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the log of a run that `error` ends."""

    def failing(*_: Any) -> Any:
        raise error

    replace_name(monkeypatch, "known_files", failing)
    assert main(place.flags()) == 4
    return place.log_file.read_text(encoding="utf-8")


def test_a_fault_of_the_program_leaves_the_versions_in_the_log(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ended_by(ValueError("boom"), workplace, monkeypatch)
    assert text.count(BEGIN) == 1
    before, _, rest = text.partition(BEGIN)
    assert "ValueError: boom" in before  # the traceback comes first
    block = rest.partition(END)[0]
    versions = {name: version.strip() for name, _, version in (line.partition(":") for line in block.splitlines())}
    assert versions.pop("prepare_dataset_sql") == __version__
    assert versions.pop("Python").startswith(sys.version.split()[0])
    assert sys.platform in versions.pop("platform").lower()
    assert versions.pop("libsndfile") == soundfile.__libsndfile_version__
    assert versions.pop("SQLite") == sqlite3.sqlite_version
    assert list(versions) == list(LIBRARIES)
    assert versions["soundfile"] == importlib.metadata.version("soundfile")
    assert "a fault of this program, not of your files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), MemoryError("no room")], ids=["I/O", "RAM"]
)
def test_a_fault_of_the_machine_leaves_no_versions(
    error: Exception, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BEGIN not in ended_by(error, workplace, monkeypatch)


def test_a_library_that_is_not_installed_is_named_as_such(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stem_dataset.logs.LIBRARIES", ("no-such-library",))
    assert "no-such-library:     not installed\n" in ended_by(ValueError("boom"), workplace, monkeypatch)


def test_the_versions_are_found_without_importing_anything_heavy() -> None:
    code = "import stem_dataset.logs, sys; stem_dataset.logs.versions_block(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "soundfile" in imported
    assert imported & {"torch", "laion_clap", "openvino", "huggingface_hub", "soxr", "librosa", "transformers"} == set()


# What laion_clap does when it is loaded: it calls logging's functions where nobody has set logging up.
LIBRARY_THAT_LOGS = """
import logging
from stem_dataset.logs import log, log_to_console, prints_to_log
with log_to_console(logging.INFO):
    with prints_to_log():
        logging.warning("a library warns")
        print("a library prints")
    log.info("the program goes on")
"""


def test_a_library_that_logs_and_prints_without_a_log_file_neither_stops_the_program_nor_shows() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY_THAT_LOGS], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "the program goes on\n")
