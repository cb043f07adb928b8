"""Exceptions, exit codes, and whose fault an error is: the file's, the machine's or the program's."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import soundfile


class PrepareError(Exception):
    """The run cannot start or go on; `exit_code` says how `main` ends."""

    exit_code = 4


class UsageError(PrepareError):
    """A flag, a setting, a folder or a database is not what it should be."""

    exit_code = 2


class WeightsMissing(PrepareError):
    """The CLAP weights are not on this machine and cannot be had."""

    exit_code = 3


class RunStopped(PrepareError):
    """Going on makes no sense: not writable, disk full, broken installation, the same fault again and again."""


class AlreadyRunning(PrepareError):
    """Another run holds this database, its stems or its quarantine."""

    exit_code = 5


class Interrupted(PrepareError):
    """Ctrl-C, SIGTERM or a closed terminal."""

    exit_code = 130


FaultKind = tuple[str, int | None]  # the name of an error's type, and its errno, which only an OSError has


class MachineFault(Exception):
    """The machine or the program failed, not the file: it stays where it is and is tried again by the next run.

    `kind` is that of the error behind it. It goes with the fault from the workers to the parent, which counts by it.
    """

    def __init__(self, text: str, kind: FaultKind | None = None) -> None:
        super().__init__(text)  # not the kind, which is no part of the message; pickle takes it from __dict__
        self.kind = kind or (type(self).__name__, None)


class ProgramFault(MachineFault):
    """The program failed at a file that can be decoded: an error in its code, which the user is asked to report."""


# Of one file. The class's name becomes part of the quarantined file's name: ERROR_<name>_kick.wav.


class BrokenFile(Exception):
    """A file that cannot become a stem."""


class NoSamples(BrokenFile):
    """The header is fine, and there is no audio behind it."""


class NotFinite(BrokenFile):
    """NaN or infinity among the samples."""


class TooLong(BrokenFile):
    """Longer than `max_duration_s`."""


class BadVector(BrokenFile):
    """CLAP's vector for it is not 512 finite numbers of unit length."""


class WorkerDied(BrokenFile):
    """It killed the worker process twice, the second time alone."""


class Timeout(BrokenFile):
    """It took longer than `file_timeout_s` twice, the second time alone."""


class TooMuchMemory(BrokenFile):
    """It took more than `worker_memory_mb` twice, the second time alone."""


class UnfitWorker(Exception):
    """A Dask worker, by its address, that cannot do its part, and why."""


PROGRAM_ERRORS = (ImportError, NameError, AttributeError, TypeError, AssertionError)


def is_machine_fault(error: Exception) -> bool:
    """Whether `error`, raised while a file was decoded, says nothing about that file.

    Every OSError is the machine's: decoders report bad audio as soundfile.LibsndfileError, a RuntimeError.
    """
    return isinstance(error, (MachineFault, OSError, *PROGRAM_ERRORS)) or is_memory_error(error)


@contextlib.contextmanager
def blaming_the_program() -> Iterator[None]:
    """Around what is done to a file once it is decoded, also as a decorator: raise `ProgramFault` for any error that is
    not the machine's, and whose type does not say that it is the file's (`BrokenFile`)."""
    try:
        yield
    except Exception as error:
        if isinstance(error, BrokenFile) or is_machine_fault(error):
            raise
        raise ProgramFault(f"{type(error).__name__}: {error}", kind_of(error)) from error


def is_memory_error(error: Exception) -> bool:
    """Whether there was no memory for what `error` ended, in Python or in libsndfile (17 is its SFE_MALLOC_FAILED)."""
    return isinstance(error, MemoryError) or (isinstance(error, soundfile.LibsndfileError) and error.code == 17)


def kind_of(error: Exception) -> FaultKind:
    """Return by what `error` counts as the same as another, whatever path or text it has."""
    return error.kind if isinstance(error, MachineFault) else (type(error).__name__, getattr(error, "errno", None))


ANOTHER_PLACE = "or give another folder (--stems, --quarantine, --database, --log-file)"
REMEDIES = {
    errno.ENOSPC: f"free some space on that disk, {ANOTHER_PLACE}",
    errno.EDQUOT: f"your quota there is used up: free some space, {ANOTHER_PLACE}",
    errno.EFBIG: f"that file system or `ulimit -f` allows no larger file: raise the limit, {ANOTHER_PLACE}",
    errno.EMFILE: "raise the limit of open files, as by `ulimit -n 1024`, or give fewer --workers",
    errno.ENFILE: "close other programs, or raise the machine's limit of open files (fs.file-max)",
    errno.EACCES: "give yourself the right to it, as by chmod or chown",
    errno.EPERM: "give yourself the right to it, as by chmod or chown",
    errno.EROFS: f"make that file system writable, {ANOTHER_PLACE}",
    errno.EIO: "check the drive and its cable",
    errno.ENOLCK: f"the network share has no locks: let its lock service run, {ANOTHER_PLACE}",
    errno.ENOMEM: "free some memory, or give fewer --workers",
    **dict.fromkeys(
        (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN),
        "it was moved or deleted, or its drive is gone: plug that in or put it back",
    ),
}


def with_remedy(error: BaseException) -> str:
    """Return what `error` says and what to do about it."""
    remedy = REMEDIES.get(errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", 0) or 0)
    return f"{error} ({remedy})" if remedy else str(error)


REPORT_TEXT = "that is an error of this program, not of the file: please report it, with the log"


def text_of_error(error: Exception) -> str:
    """Return what `error` is, what it says, and what to do about it."""
    return str(error) if isinstance(error, ProgramFault) else f"{type(error).__name__}: {with_remedy(error)}"
