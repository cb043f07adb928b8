"""The log: its file, the lines on the console, and what libraries print."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import os
import platform
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import soundfile
from tqdm import tqdm

from stem_dataset import __version__
from stem_dataset.errors import PrepareError, RunStopped, with_remedy

LIBRARIES = ("soundfile", "soxr", "numpy", "openvino", "torch", "laion-clap", "huggingface-hub")

log = logging.getLogger("prepare_dataset_sql")


def printable(path: object) -> str:
    """Return a path or message as text that neither breaks a line nor steers a terminal: odd characters escaped."""
    text = os.fsdecode(path) if isinstance(path, (bytes, os.PathLike)) else str(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def versions_block() -> str:
    """Return the versions that a bug report needs, one per line. No library is imported for it."""
    versions = {
        "prepare_dataset_sql": __version__,
        "Python": sys.version.replace("\n", " "),
        "platform": platform.platform(),
        **{name: _installed_version(name) for name in LIBRARIES},
        "libsndfile": soundfile.__libsndfile_version__,
        "SQLite": sqlite3.sqlite_version,
    }
    lines = [f"{name + ':':21}{version}" for name, version in versions.items()]
    return "\n".join(["---- copy from here into a bug report", *lines, "---- to here, with the traceback above"])


def _installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class _LogLines(io.TextIOBase):
    """A text stream whose lines go to the log, at debug level."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug("%s", printable(text.strip()), extra={"file_only": True})
        return len(text)


@contextlib.contextmanager
def prints_to_log() -> Iterator[None]:
    """Send what libraries print to the log. Our own bar and log lines hold the real stderr, and go there."""
    lines = _LogLines()
    with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
        yield


class FileLog(logging.FileHandler):
    """The log file. A full disk costs the log, not the run."""

    gave_up = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        if not self.gave_up:
            self.gave_up = True
            why = with_remedy(sys.exc_info()[1] or ValueError())
            log.warning("%s cannot be written: %s", printable(self.baseFilename), why, extra={"console_only": True})

    def filter(self, record: logging.LogRecord) -> bool:
        return not hasattr(record, "console_only") and bool(super().filter(record))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class ConsoleLog(logging.Handler):
    """Short lines on stderr, above the bar. A closed terminal costs the lines, not the run."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.stream = sys.stderr  # the real one, also while `prints_to_log` has replaced it

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "file_only"):
            prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
            with contextlib.suppress(OSError, ValueError):  # ValueError: closed
                tqdm.write(prefix + self.format(record), file=self.stream)


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append everything to the log file, other packages' warnings and the error that ends the run included."""
    try:
        handler = FileLog(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise RunStopped(f"{printable(path)}: the log cannot be written: {with_remedy(error)}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(processName)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    except Exception as error:
        log.debug("the run ends with %s: %s", type(error).__name__, error, exc_info=True, extra={"file_only": True})
        if not isinstance(error, (PrepareError, OSError, MemoryError)):  # `run_safely` calls it a fault of this program
            log.critical("a fault of this program\n%s", versions_block(), extra={"file_only": True})
        raise
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def log_to_console(level: int) -> Iterator[None]:
    """Show our own log lines from `level` on."""
    handler = ConsoleLog(level)
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
