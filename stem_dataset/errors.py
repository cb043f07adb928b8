"""Exceptions, exit codes, and who is to blame for an error.

It is the file, the machine or the program.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import soundfile


class PrepareError(Exception):
    """The run cannot start or continue.

    `exit_code` is the exit status of the program.
    """

    exit_code = 4


class UsageError(PrepareError):
    """A flag, a setting, a folder or a database is wrong."""

    exit_code = 2


class WeightsMissing(PrepareError):
    """The CLAP weights are not on this machine and cannot be downloaded."""

    exit_code = 3


class RunStopped(PrepareError):
    """The run cannot go on.

    Examples are a full disk, a broken installation, or the same fault again and again.
    """


class AlreadyRunning(PrepareError):
    """Another run holds this database, its stems or its quarantine."""

    exit_code = 5


class Interrupted(PrepareError):
    """Ctrl-C, SIGTERM or a closed terminal."""

    exit_code = 130


# The name of an error's type, and its errno (None unless it is an OSError).
FaultKind = tuple[str, int | None]


class MachineFault(Exception):
    """The machine or the program failed, not the file.

    The file stays in place and the next run tries it again. `kind` is the kind of the error that caused the fault; the
    workers send it to the parent, which counts equal faults.
    """

    def __init__(self, text: str, kind: FaultKind | None = None) -> None:
        # `kind` is not part of the message. pickle carries it in __dict__.
        super().__init__(text)
        self.kind = kind or (type(self).__name__, None)


class ProgramFault(MachineFault):
    """The program failed on a file that can be decoded.

    The user is asked to report it.
    """


# The errors of a single file. A class's name becomes part of the quarantined file's name: ERROR_<name>_kick.wav.


class BrokenFile(Exception):
    """A file that cannot become a stem."""


class NoSamples(BrokenFile):
    """The header is valid, but no audio follows it."""


class NotFinite(BrokenFile):
    """The samples contain NaN or infinity."""


class TooLong(BrokenFile):
    """The file is longer than `max_duration_s`."""


class BadVector(BrokenFile):
    """CLAP's vector for the file is not 512 finite numbers of unit length."""


class WorkerDied(BrokenFile):
    """The file killed its worker process twice, the second time alone."""


class Timeout(BrokenFile):
    """The file took longer than `file_timeout_s` twice, the second time alone."""


class TooMuchMemory(BrokenFile):
    """The file needed more than `worker_memory_mb` twice, the second time alone."""


class UnfitWorker(Exception):
    """A Dask worker cannot do its part.

    The arguments are its address and the reason.
    """


PROGRAM_ERRORS = (ImportError, NameError, AttributeError, TypeError, AssertionError)


def is_machine_fault(error: Exception) -> bool:
    """Whether `error`, raised while a file was decoded, says nothing about that file.

    Decoders report bad audio as soundfile.LibsndfileError, a RuntimeError. Every OSError is therefore the machine's.
    """
    return isinstance(error, (MachineFault, OSError, *PROGRAM_ERRORS)) or is_memory_error(error)


@contextlib.contextmanager
def blaming_the_program() -> Iterator[None]:
    """Raise `ProgramFault` for errors in the work on a decoded file.

    This is also usable as a decorator. Errors of the machine, and those that blame the file (`BrokenFile`), pass
    through unchanged.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, BrokenFile) or is_machine_fault(error):
            raise
        raise ProgramFault(f"{type(error).__name__}: {error}", kind_of(error)) from error


def is_memory_error(error: Exception) -> bool:
    """Whether memory ran out, in Python or in libsndfile."""
    sfe_malloc_failed = 17
    if isinstance(error, soundfile.LibsndfileError):
        return bool(error.code == sfe_malloc_failed)
    return isinstance(error, MemoryError)


def kind_of(error: Exception) -> FaultKind:
    """Return what makes two errors count as the same fault.

    Their paths and texts do not matter.
    """
    return error.kind if isinstance(error, MachineFault) else (type(error).__name__, getattr(error, "errno", None))


ANOTHER_PLACE = "or give another folder (--stems, --quarantine, --database, --log-file)"
REMEDIES = {
    errno.ENOSPC: f"free some space on that disk, {ANOTHER_PLACE}",
    errno.EDQUOT: f"your disk quota there is used up: free some space, {ANOTHER_PLACE}",
    errno.EFBIG: f"that file system or `ulimit -f` allows no larger file: raise the limit, {ANOTHER_PLACE}",
    errno.EMFILE: "raise the limit of open files, for example with `ulimit -n 1024`, or use fewer --workers",
    errno.ENFILE: "close other programs, or raise the machine's limit of open files (fs.file-max)",
    errno.EACCES: "give yourself permission, for example with chmod or chown",
    errno.EPERM: "give yourself permission, for example with chmod or chown",
    errno.EROFS: f"make that file system writable, {ANOTHER_PLACE}",
    errno.EIO: "check the drive and its cable",
    errno.ENOLCK: f"the network share supports no locks: start its lock service, {ANOTHER_PLACE}",
    errno.ENOMEM: "free some memory, or use fewer --workers",
    **dict.fromkeys(
        (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN),
        "it was moved or deleted, or its drive is gone: reconnect the drive or put the file back",
    ),
}


def with_remedy(error: BaseException) -> str:
    """Return the text of `error`, and what to do about it."""
    remedy = REMEDIES.get(errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", 0) or 0)
    return f"{error} ({remedy})" if remedy else str(error)


REPORT_TEXT = "this is an error in the program, not in the file: please report it, with the log"


def text_of_error(error: Exception) -> str:
    """Return the type of `error`, its text, and what to do about it."""
    return str(error) if isinstance(error, ProgramFault) else f"{type(error).__name__}: {with_remedy(error)}"
