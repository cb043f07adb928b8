"""The program with a fake CLAP and, on request, with faults: tests run `python tests/support/driver.py FLAGS`.

A worker imports the main module again, so the faults below reach the workers too. They are asked for by TEST_FAULTS, a
JSON object, and are no part of the product:

    {"measure": true}                  the audio is analysed as by the product, as ever in `make chaos`; else see
                                       quick_analysis.py
    {"die": {"kick.wav": 11}}          the worker is killed by that signal when it comes to that file
    {"exit": {"kick.wav": 3}}          the worker ends by os._exit with that code
    {"die_after": ["kick.wav"]}        the worker is killed once it has moved that file to quarantine
    {"die_at_start": "before"}         the first worker is killed just before the second one starts, or "after"
    {"die_copied": ["kick.wav"]}       the worker is killed once it has copied that file to quarantine on another disk
    {"die_sending": ["kick.wav"]}      the worker is killed by SIGKILL when half of that file's result is in the pipe
    {"hang": ["kick.wav"]}             the worker never comes back from that file
    {"hang_in_c": ["kick.wav"]}        the same, in C code that holds the interpreter's lock
    {"stop": ["kick.wav"]}             the worker is stopped, all its threads, at that file
    {"deaf": {"kick.wav": 1}}          that file's drive does not answer after so many times
    {"hungry": {"kick.wav": 2000}}     the worker asks for so many MB at that file
    {"eio": {"kick.wav": 20000}}       reads of the decoder beyond that byte fail with EIO
    {"few_files": ["kick.wav"]}        the worker may open no more files from that one's decoding on (RLIMIT_NOFILE)
    {"errno": {"kick.wav": 28}}        processing that file raises OSError with that errno
    {"errors": {"kick.wav": ["analyse", "ValueError"]}}  that step of processing that file raises that error
    {"write_errno": 28}                every WAV fails with that errno when it is synced
    {"commit": "database or disk is full"}  the first commit of a batch raises sqlite3.OperationalError with that text
    {"spawn": true}                    workers start by spawn, as on macOS and Windows
    {"kill_in_call": 2}                the program is killed by SIGKILL in that CLAP call, the reference's not counted
    {"kill_after_commit": 2}           the program is killed by SIGKILL after that batch of --re-embed is committed
    {"engine": ["other/gpu", 0.5]}     CLAP is on that engine, with vectors that differ by so much
    {"constants": {"BACKSTOP_S": 1}}   those of the module's constants have another value
    {"slow_s": 5}                      each CLAP call takes so long
    {"slow_file_s": 0.2}               each file takes so much longer
    {"bad_decoder": true}              libsndfile refuses everything
    {"bad_vector": 12345}              windows of so many samples get NaN from CLAP
    {"swap": {"kick.wav": ["open", "fifo"]}}  just before the program opens, decodes or quarantines that file, it is
                                       replaced or changed as SWAPS says
    {"kill_after": {"put_back": 3}}    the program is killed by SIGKILL after its third call of that function
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import functools
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import soundfile

import prepare_dataset_sql as product
from fake_clap import FakeClap, OtherClap
from patching import replace_for_good, value_of
from quick_analysis import plausible_measurements
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.clap.checkpoints import Weights
from stem_dataset.config import Config
from stem_dataset.database.stems import Database
from stem_dataset.datatypes import FoundFile, ProcessedFile, QuarantineEntry, SourceFormat
from stem_dataset.startup import prepare_process
from stem_dataset.workers.local_pool import WORKER_IMPORTS
from stem_dataset.workers.tasks import RunContext, TaskReport

FAULTS: dict[str, Any] = json.loads(os.environ.get("TEST_FAULTS", "{}"))
WORKPLACE = Path(os.environ.get("TEST_WORKPLACE", "."))


def install_file_faults() -> None:
    """Wrap the steps of `_process_file` that open and read a file."""
    standardise: Callable[..., SourceFormat] = value_of("standardise")

    def faulty_standardise(file: Any, *rest: Any, **options: Any) -> SourceFormat:
        name = os.path.basename(str(getattr(file, "name", "")))
        time.sleep(FAULTS.get("slow_file_s", 0))
        if name in FAULTS.get("die", {}):
            os.kill(os.getpid(), FAULTS["die"][name])
        if name in FAULTS.get("exit", {}):
            os._exit(FAULTS["exit"][name])
        if name in FAULTS.get("hang", []):
            time.sleep(3600)
        if name in FAULTS.get("hang_in_c", []):
            ctypes.PyDLL(None).sleep(3600)
        if name in FAULTS.get("stop", []):
            os.kill(os.getpid(), signal.SIGSTOP)
        if name in FAULTS.get("hungry", {}):
            np.ones(FAULTS["hungry"][name] * 10**6, np.uint8)
        if name in FAULTS.get("errno", {}):
            raise OSError(FAULTS["errno"][name], os.strerror(FAULTS["errno"][name]), name)
        if name in FAULTS.get("errors", {}):
            fail_once(*FAULTS["errors"][name])
        if name in FAULTS.get("eio", {}):
            file = FailingFile(file, FAULTS["eio"][name])
        if FAULTS.get("bad_decoder"):
            raise soundfile.LibsndfileError(1)
        if name in FAULTS.get("few_files", []):
            forbid_more_files()
        return standardise(file, *rest, **options)

    replace_for_good("standardise", faulty_standardise)


def fail_once(step: str, error: str) -> None:
    """Let the next call of a step of `_process_file` raise `error`."""
    sound = value_of(step)

    def failing(*_: Any, **__: Any) -> None:
        replace_for_good(step, sound)
        raise {**vars(builtins), **vars(np.linalg)}[error](f"{step} is wrong")

    replace_for_good(step, failing)


def forbid_more_files() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def install_half_a_result() -> None:
    process_file = product._process_file

    def die_sending(self: Any, buffer: Any, write: Any = None) -> None:
        os.write(self.fileno(), bytes(buffer)[:60_000])  # a pipe holds 64 kB
        os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(process_file)  # by its name it is found in the worker
    def file_whose_result_kills(found: FoundFile, run_context: RunContext, *report: TaskReport) -> ProcessedFile | None:
        processed = process_file(found, run_context, *report)
        if os.path.basename(found.path) in FAULTS["die_sending"]:
            Connection._send = die_sending  # type: ignore[attr-defined]
        return processed

    replace_for_good("_process_file", file_whose_result_kills)


def install_deaf_drive() -> None:
    answers: Callable[[str], bool] = value_of("answers")

    def deaf(path: str) -> bool:
        name = os.path.basename(path)
        if name not in FAULTS["deaf"]:
            return answers(path)
        FAULTS["deaf"][name] -= 1
        return bool(FAULTS["deaf"][name] >= 0)

    replace_for_good("answers", deaf)


def install_death_at_start() -> None:
    process_type: Any = ForkServerProcess
    start = process_type.start
    known: list[Any] = []

    def die() -> None:
        os.kill(known[0].pid, signal.SIGSEGV)
        time.sleep(2)  # its executor's thread notices that meanwhile

    def deadly_start(process: Any) -> None:
        moment = FAULTS.pop("die_at_start", None) if known else None
        if moment == "before":
            die()
        start(process)
        if moment == "after":
            die()
        known.append(process)

    process_type.start = deadly_start


class FailingFile:
    """An open file on a failing disk: what lies beyond `good_bytes` cannot be read."""

    def __init__(self, file: Any, good_bytes: int) -> None:
        self.file = file
        self.good_bytes = good_bytes

    def readinto(self, buffer: Any) -> int:
        if self.file.tell() + len(buffer) > self.good_bytes:
            raise OSError(errno.EIO, "Input/output error")
        return int(self.file.readinto(buffer))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def install_output_faults() -> None:
    quarantine_file: Callable[..., QuarantineEntry] = value_of("quarantine_file")

    def deadly_quarantine_file(found: FoundFile, *rest: Any) -> QuarantineEntry:
        entry = quarantine_file(found, *rest)
        if os.path.basename(found.path) in FAULTS.get("die_after", []):
            os.kill(os.getpid(), signal.SIGSEGV)
        return entry

    replace_for_good("quarantine_file", deadly_quarantine_file)
    if "die_copied" in FAULTS:

        def no_rename(source: Any, target: Any) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        def deadly_remove_source(source: Path) -> None:
            if source.name in FAULTS["die_copied"] and multiprocessing.parent_process():
                os.kill(os.getpid(), signal.SIGSEGV)
            remove_source(source)

        remove_source = value_of("remove_source")
        os.rename = no_rename  # type: ignore[assignment]
        replace_for_good("remove_source", deadly_remove_source)
    if "write_errno" in FAULTS:

        def full_disk(self: StandardisedAudio, path: Path) -> None:
            raise OSError(FAULTS["write_errno"], os.strerror(FAULTS["write_errno"]), str(path))

        StandardisedAudio.publish = full_disk  # type: ignore[method-assign]
    if "commit" in FAULTS:

        def failing_insert(self: Database, records: Any, provenance: Any) -> list[Path]:
            with self.errors():
                raise sqlite3.OperationalError(FAULTS["commit"])

        Database.insert = failing_insert  # type: ignore[method-assign]


class DeadlyClap(OtherClap):
    def get_audio_embedding_from_data(self, x: Any) -> Any:
        vectors = super().get_audio_embedding_from_data(x)
        if len(self.call_sizes) == FAULTS.get("kill_in_call"):
            os.kill(os.getpid(), signal.SIGKILL)
        return vectors

    def vector(self, window: Any) -> Any:
        return super().vector(window) * (np.nan if len(window) == FAULTS.get("bad_vector") else 1)


def load_fake(weights: Weights, config: Config) -> FakeClap:
    engine, noise = FAULTS.get("engine", (FakeClap.engine, 0))
    model = DeadlyClap(noise, engine)
    model.seconds_a_call = FAULTS.get("slow_s", 0)
    return model


def install_kill_after_commit() -> None:
    replace_vectors = Database.replace_vectors
    commits = []

    def deadly_replace_vectors(self: Database, vectors: Any, provenance: Any) -> None:
        replace_vectors(self, vectors, provenance)
        commits.append(1)
        if len(commits) == FAULTS["kill_after_commit"]:
            os.kill(os.getpid(), signal.SIGKILL)

    Database.replace_vectors = deadly_replace_vectors  # type: ignore[method-assign]


SWAPS: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda path: None,
    "fifo": os.mkfifo,
    "folder": os.mkdir,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "link outside": lambda path: path.symlink_to(WORKPLACE / "outside" / path.name),
    "other file": lambda path: shutil.copyfile(WORKPLACE / "outside" / path.name, path),
}
CHANGES: dict[str, Callable[[Path], Any]] = {
    "grows": lambda path: path.write_bytes(path.read_bytes() + bytes(1_000)),
    "shrinks": lambda path: path.write_bytes(path.read_bytes()[:1_000]),
    "other mtime": lambda path: os.utime(path),
}


def install_swaps() -> None:
    steps = {"open": "open_regular", "decode": "standardise", "quarantine": "quarantine_file"}
    for moment, name in steps.items():
        replace_for_good(name, after_a_swap(moment, value_of(name)))


def after_a_swap(moment: str, step: Callable[..., Any]) -> Callable[..., Any]:
    def swap_first(what: Any, *rest: Any, **options: Any) -> Any:
        path = Path(str(getattr(what, "path", getattr(what, "name", what))))  # a FoundFile, an open file, or a path
        when, into = FAULTS["swap"].get(path.name, ("", ""))
        if when == moment and into in CHANGES:
            CHANGES[into](path)
        elif when == moment and path.exists():
            path.unlink()
            SWAPS[into](path)
        return step(what, *rest, **options)

    return swap_first


def install_kill_after() -> None:
    for dotted, last_call in FAULTS["kill_after"].items():
        replace_for_good(dotted, deadly_at(last_call, value_of(dotted)))


def deadly_at(last_call: int, step: Callable[..., Any]) -> Callable[..., Any]:
    calls = itertools.count(1)

    def deadly(*args: Any) -> None:
        step(*args)
        if next(calls) == last_call:
            os.kill(os.getpid(), signal.SIGKILL)

    return deadly


def main() -> int:
    product.DatasetPreparer.__init__.__defaults__ = (load_fake, True)
    return product.main()


if not FAULTS.get("measure", os.environ.get("CHAOS") == "long"):
    replace_for_good("analyse", plausible_measurements)
    WORKER_IMPORTS[:] = set(WORKER_IMPORTS) - {"librosa.filters", "pyloudnorm", "scipy.fft"}  # most of a short run
if "spawn" in FAULTS:
    spawn = multiprocessing.get_context("spawn")
    multiprocessing.get_context = lambda method=None: spawn  # type: ignore[assignment]
if "die_sending" in FAULTS:
    install_half_a_result()
if "deaf" in FAULTS:
    install_deaf_drive()
for constant, value in FAULTS.get("constants", {}).items():
    replace_for_good(constant, value)
if "die_at_start" in FAULTS and __name__ == "__main__":  # the parent, which starts the workers
    install_death_at_start()
if "kill_after_commit" in FAULTS:
    install_kill_after_commit()
install_file_faults()
install_output_faults()
if "swap" in FAULTS:
    install_swaps()
if "kill_after" in FAULTS:
    install_kill_after()

if __name__ == "__main__":
    prepare_process("interrupted: what was committed stays; run again to go on")
    product.leave(main())
