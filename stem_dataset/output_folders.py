"""The output folders: create and lock them, and where a WAV goes in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stem_dataset.config import Config
from stem_dataset.errors import AlreadyRunning, RunStopped, with_remedy
from stem_dataset.logs import log, printable

SCRATCH = ".prepare_dataset.unfinished"  # folder of half-written WAVs, beside the finished ones
LOCK_NAME = ".prepare_dataset.lock"


def scratch_folder(stems: Path | None, quarantine: Path) -> Path:
    """Return where half-finished WAVs are; emptied when a run starts. On the WAVs' own file system, for the rename."""
    return (stems or quarantine) / SCRATCH


def wav_path(stems: Path, stem_id: str) -> str:
    """Return where the WAV of a stem is: in one of 256 folders, since a million names in one are slow on some disks."""
    return str(stems / stem_id[:2] / f"{stem_id}.wav")


def stem_id_of(original_file: str, digest: str) -> str:
    """Return the one identity of a stem: where it is and what it holds. The same original always gives the same."""
    return hashlib.sha256(os.fsencode(original_file) + b"\0" + digest.encode("ascii")).hexdigest()[:16]


def token_of(folder: Path, run_id: str) -> Path:
    """Return the file by which a Dask worker knows the driver's output folder."""
    return folder / f".prepare_dataset.{run_id}.token"


def make_folders(config: Config) -> None:
    """Create the output folders; raises `RunStopped` where that cannot be."""
    for folder in filter(None, (config.log_file.parent, config.database.parent, config.stems, config.quarantine)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if folder == config.log_file.parent:  # the log may be there, and it alone may be written to
                continue
            with tempfile.TemporaryFile(dir=folder):  # else every file would fail, one by one
                pass
        except OSError as error:
            text = f"{printable(folder)}: this output folder cannot be made or written to: {with_remedy(error)}"
            raise RunStopped(f"{text}; no file was touched") from None


@contextlib.contextmanager
def hold_outputs(config: Config) -> Iterator[None]:
    """Lock database, stems and quarantine against another run; raises `AlreadyRunning` with the one that is held.

    The operating system drops the locks of a process that dies; the files stay, and say who held them last.
    """
    import filelock

    held = {config.database: config.database.with_name(config.database.name + ".lock")}
    held |= {folder: folder / LOCK_NAME for folder in (config.stems, config.quarantine) if folder}
    with contextlib.ExitStack() as stack:
        for output, lock_file in held.items():
            try:
                stack.enter_context(filelock.FileLock(lock_file, timeout=0))
                with contextlib.suppress(OSError):  # Windows lets nobody write to a locked file
                    lock_file.write_text(str(os.getpid()), encoding="ascii")
            except filelock.Timeout:
                holder = lock_file.read_text(encoding="ascii") if os.name == "posix" else "unknown"
                raise AlreadyRunning(
                    f"{printable(output)} is in the hands of another run (process {holder}): wait for it"
                ) from None
            except OSError as error:
                raise RunStopped(f"{printable(output)}: not writable: {with_remedy(error)}") from None
        yield


def drop_wav(wav: Path | None) -> None:
    """Remove the WAV of a row that is gone or has another one."""
    if wav is not None:
        try:
            wav.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: an old WAV that no row names cannot be removed: %s", printable(wav), error)
