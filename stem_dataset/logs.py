"""Write the log file and the console lines, and log what libraries print."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import logging
import os
import platform
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import soundfile
from tqdm import tqdm

from stem_dataset import __version__
from stem_dataset.errors import PrepareError, RunStopped, with_remedy

LIBRARIES = ("soundfile", "soxr", "numpy", "openvino", "torch", "laion-clap", "huggingface-hub")

log = logging.getLogger("prepare_dataset_sql")


def printable(path: object) -> str:
    """Return a path or message as text, with unprintable characters escaped.

    The text can neither break a line nor control a terminal.
    """
    text = os.fsdecode(path) if isinstance(path, (bytes, os.PathLike)) else str(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def exit_code_of(error: Exception, advice: str = "") -> int:
    """Log why a command has ended, and return its exit code.

    `advice` follows the message of an error that does not bring its own.
    """
    if isinstance(error, PrepareError):
        log.error("%s", error)
        return error.exit_code
    if isinstance(error, (OSError, MemoryError)):  # the machine is at fault
        log.error("stopped: %s%s", printable(with_remedy(error)), advice)
        log.debug("traceback", exc_info=error)
    else:
        log.critical("a fault of this program, not of your files%s", advice, exc_info=error)
    return RunStopped.exit_code


def print_lines(lines: Iterable[str]) -> None:
    """Print the result of a command; whoever reads it may stop early, as `| head` does."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def versions_block() -> str:
    """Return the versions that a bug report needs, without importing any library."""
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
    """A text stream that logs each line at debug level."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug("%s", printable(text.strip()), extra={"file_only": True})
        return len(text)


@contextlib.contextmanager
def prints_to_log() -> Iterator[None]:
    """Send what libraries print to the log.

    The bar and the console lines keep the real stderr.
    """
    lines = _LogLines()
    # Without any handler at the root, a library's logging.info would add one that writes to this stderr. What it writes
    # would be logged, written again, and so on.
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
            yield
    finally:
        logging.getLogger().removeHandler(handler)


class FileLog(logging.FileHandler):
    """The log file; a full disk stops the log, not the run."""

    gave_up = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # overrides logging's method
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
    """Short lines on stderr above the bar.

    A closed terminal does not stop the run.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        # `prints_to_log` replaces `sys.stderr`, so the real one is kept here.
        self.stream = sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "file_only"):
            prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
            with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
                tqdm.write(prefix + self.format(record), file=self.stream)


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append all log records to the log file.

    They include the warnings of other packages, and the error that ends the run.
    """
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
        # `run_safely` reports all other errors as faults of this program.
        if not isinstance(error, (PrepareError, OSError, MemoryError)):
            log.critical("a fault of this program\n%s", versions_block(), extra={"file_only": True})
        raise
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)
        handler.close()


def add_level_flags(parser: argparse.ArgumentParser) -> None:
    """Add -v and -q, which set `level`, the least level that `log_to_console` shows."""
    parser.add_argument("-v", dest="level", action="store_const", const=logging.DEBUG, help="more on the console")
    parser.add_argument(
        "-q", dest="level", action="store_const", const=logging.WARNING, help="warnings and errors only"
    )
    parser.set_defaults(level=logging.INFO)


@contextlib.contextmanager
def log_to_console(level: int) -> Iterator[None]:
    """Show this program's log lines of at least `level`."""
    handler = ConsoleLog(level)
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
