"""A working folder as a user has it, and ways to run the program in it."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from fake_clap import FakeClap
from patching import replace_name
from prepare_dataset_sql import DatasetPreparer
from quick_analysis import plausible_measurements
from stem_dataset.commands.re_embed import ReEmbed
from stem_dataset.commands.verify import SAMPLE_PERCENT, VerifyVectors
from stem_dataset.config import Config, load_config
from stem_dataset.datatypes import text_of
from stem_dataset.output_folders import README_NAME
from stem_dataset.summary import ReEmbedding, Summary, Verification

REPOSITORY = Path(__file__).resolve().parents[2]


def run_program(*flags: str, stand_in: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program with the real laion_clap to its end; nothing but the stand-in is in its hub's cache."""
    return run_python(str(REPOSITORY / "prepare_dataset_sql.py"), *flags, stand_in=stand_in, **environment)


def run_python(*arguments: str, stand_in: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run what uses the real laion_clap, as `run_program` does."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**stand_in_environment(stand_in), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def stand_in_environment(stand_in: Path) -> dict[str, str]:
    """Return the environment in which the real laion_clap finds the stand-in and nothing else."""
    hub = {"HF_HUB_CACHE": str(stand_in / "hub"), "HF_HUB_OFFLINE": "1"}
    one_thread = {"OMP_NUM_THREADS": "1"}  # torch's threads wait for each other where other tests use the cores
    return {**os.environ, **hub, **one_thread}


@dataclass(frozen=True)
class Watch:
    """What the processes of a run import and whom they call; see watch/sitecustomize.py."""

    file: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(REPOSITORY / "tests" / "support" / "watch"), "TEST_WATCH": str(self.file)}

    def noted(self, kind: Literal["import", "network"]) -> list[str]:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]


@dataclass
class Workplace:
    """A folder with an input and outputs of its own, and what a test wants to know about them."""

    folder: Path

    @property
    def input(self) -> Path:
        return self.folder / "stems"

    @property
    def database(self) -> Path:
        return self.folder / "out" / "stems.db"

    @property
    def wavs(self) -> Path:
        return self.folder / "out" / "stems"

    @property
    def quarantine(self) -> Path:
        return self.folder / "out" / "quarantine"

    @property
    def log_file(self) -> Path:
        return self.folder / "out" / "prepare_dataset.log"

    def config(self, **settings: Any) -> Config:
        """Return a config with all outputs in this folder."""
        paths: dict[str, Any] = {
            "input": self.input,
            "database": self.database,
            "stems": self.wavs,
            "quarantine": self.quarantine,
            "log_file": self.log_file,
            "model_cache": self.folder / "cache",
            "workers": 2,
        }
        return dataclasses.replace(load_config(REPOSITORY / "config.yaml", {}), **{**paths, **settings})

    def _preparer(self, model: Any, settings: dict[str, Any]) -> DatasetPreparer:
        clap = model or FakeClap()
        return DatasetPreparer(self.config(**settings), load_model=lambda *_: clap, show_progress=False)

    def run(self, model: Any = None, **settings: Any) -> Summary:
        """Run in this process (with real worker processes) and a fake model; the account's sum must close."""
        preparer = self._preparer(model, settings)
        try:
            return preparer.run()
        finally:
            assert preparer.summary.sum_closes, preparer.summary

    def re_embed(self, model: Any = None, **settings: Any) -> ReEmbedding:
        """Re-embed in this process with a fake model; the account's sum must close."""
        account = ReEmbedding("run")
        try:
            self._preparer(model, settings).tend(ReEmbed, account)
        finally:
            assert account.sum_closes, account
        return account

    def verify(
        self, model: Any = None, percent: float = SAMPLE_PERCENT, replaces: bool = False, **settings: Any
    ) -> Verification:
        """Verify the vectors in this process with a fake model; the account's sum must close."""
        account = Verification("run", percent, replaces)
        try:
            self._preparer(model, settings).tend(VerifyVectors, account)
        finally:
            assert account.sum_closes, account
        return account

    def flags(self) -> list[str]:
        """Return the command line of a run with all outputs in this folder."""
        return [
            *("--input", str(self.input), "--database", str(self.database), "--stems", str(self.wavs)),
            *("--quarantine", str(self.quarantine), "--log-file", str(self.log_file), "--workers", "2"),
            *("--model-cache", str(self.folder / "cache")),
        ]

    def start(self, *flags: str, faults: dict[str, Any] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start the program as a process of its own, with a fake model and the faults of driver.py."""
        command = [sys.executable, str(REPOSITORY / "tests" / "support" / "driver.py"), *self.flags(), *flags]
        env = {**os.environ, "TEST_FAULTS": json.dumps(faults or {}), "TEST_WORKPLACE": str(self.folder)}
        defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
        return subprocess.Popen(command, cwd=self.folder, **{**defaults, **options})

    def execute(self, *flags: str, faults: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the program as a process of its own to its end."""
        with self.start(*flags, faults=faults) as process:
            try:
                stdout, stderr = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()  # else `with` would wait for it
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def rows(self, query: str = "SELECT * FROM stems ORDER BY original_file") -> list[dict[str, Any]]:
        """Return what a query finds, as dictionaries."""
        connection = sqlite3.connect(self.database)
        connection.text_factory = text_of
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(query)]
        finally:
            connection.close()

    def change(self, statement: str, *values: Any) -> None:
        """Run a statement on the database, as a user may with sqlite3."""
        connection = sqlite3.connect(self.database)
        with connection:
            connection.execute(statement, values)
        connection.close()

    def originals(self) -> list[str]:
        """Return the rows' originals relative to the input, sorted."""
        return sorted(os.path.relpath(row["original_file"], os.path.realpath(self.input)) for row in self.rows())

    def quarantined(self) -> list[str]:
        """Return the names in the quarantine folder, without the JSONs, the README and what is hidden."""
        names = {path.name for path in self.quarantine.glob("[!.]*") if path.suffix != ".json"}
        return sorted(names - {README_NAME})


def use_quick_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs with inline workers measure nothing."""
    replace_name(monkeypatch, "analyse", plausible_measurements)


def processes_of(place: Workplace) -> list[str]:
    """Return the command lines of living processes that were started for this workplace."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().decode("utf-8", "replace")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"TEST_WORKPLACE={place.folder}\0" in environment + "\0" and state != "Z":
            found.append((folder / "cmdline").read_text())
    return found


def obey_modes() -> None:
    """Take from root what lets it pass by the modes of files (in a process that is about to run the program); any other
    user obeys them anyway."""
    drop_from_bounding_set = 24
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)  # EPERM for anyone else


def wait_for_no_process_of(place: Workplace, seconds: float) -> list[str]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and processes_of(place):
        time.sleep(0.1)
    return processes_of(place)


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in Linux's /proc")


def wait_for_log(place: Workplace, text: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if place.log_file.exists() and text in place.log_file.read_text(encoding="utf-8"):
            return
        time.sleep(0.05)
    raise AssertionError(f"{text!r} is not in the log within a minute")
