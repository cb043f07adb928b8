"""Create, mark and lock the output folders, and name the WAVs in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stem_dataset.config import Config
from stem_dataset.errors import AlreadyRunning, RunStopped, with_remedy
from stem_dataset.logs import log, printable

# The folder of unfinished WAVs, beside the finished ones.
SCRATCH = ".prepare_dataset.unfinished"
LOCK_NAME = ".prepare_dataset.lock"
README_NAME = "README.txt"
# The first line of each README. If this text changed, existing output folders would no longer be recognised.
MARKER = "prepare_dataset_sql: output folder. Keep this file, which marks it as one."

DATABASE_README = """\
The SQLite database of audio stems, and by default also their WAVs, the quarantine folder and the log.
"""
STEMS_README = """\
Standardised WAVs (48 kHz, mono, 24 bit). In the database, the column path of the table stems names them.
"""
QUARANTINE_README = """\
Files that could not be imported. They were moved here: do not delete them unless you have them elsewhere. The JSON
beside each file says where it was and what is wrong with it. This command moves all of them back:

    python prepare_dataset_sql.py --restore-quarantine
"""


def scratch_folder(stems: Path | None, quarantine: Path) -> Path:
    """Return the folder of unfinished WAVs, which is emptied when a run starts.

    It is on the same file system as the WAVs, so that a finished one can be renamed into place.
    """
    return (stems or quarantine) / SCRATCH


def wav_path(stems: Path, stem_id: str) -> str:
    """Return the path of a stem's WAV, in one of 256 subfolders.

    A million names in one folder are slow on some file systems.
    """
    return str(stems / stem_id[:2] / f"{stem_id}.wav")


def stem_id_of(original_file: str, digest: str) -> str:
    """Return a stem's id, which depends only on its path and its bytes."""
    return hashlib.sha256(os.fsencode(original_file) + b"\0" + digest.encode("ascii")).hexdigest()[:16]


def token_of(folder: Path, run_id: str) -> Path:
    """Return the file by which a Dask worker recognises the driver's output folder."""
    return folder / f".prepare_dataset.{run_id}.token"


def make_folders(config: Config) -> None:
    """Create the output folders with their READMEs; raises `RunStopped` on failure."""
    readmes = {config.stems: STEMS_README, config.quarantine: QUARANTINE_README}
    # An existing folder may be the user's own, so it gets no README.
    if not config.database.parent.exists():
        readmes = {config.database.parent: DATABASE_README, **readmes}
    for folder in filter(None, (config.log_file.parent, config.database.parent, config.stems, config.quarantine)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The log file may be writable in a folder that is not.
            if folder == config.log_file.parent:
                continue
            # Without this check, a read-only folder would make every file fail, one by one.
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            text = f"{printable(folder)}: this output folder cannot be made or written to: {with_remedy(error)}"
            raise RunStopped(f"{text}; no file was touched") from None
    for output, readme_text in readmes.items():
        if output is not None:
            write_readme(output, readme_text)


def write_readme(folder: Path, text: str) -> None:
    """Write a README that says what `folder` is, unless it has one.

    A full disk does not stop the run here.
    """
    readme = folder / README_NAME
    with contextlib.suppress(OSError):
        # A full disk or a killed run leaves an empty README.
        if not os.path.lexists(readme) or _is_empty_file(readme):
            readme.write_text(f"{MARKER}\n\n{text}", encoding="ascii")


def _is_empty_file(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


@contextlib.contextmanager
def hold_outputs(config: Config) -> Iterator[None]:
    """Lock the database, the stems and the quarantine against other runs.

    Raises `AlreadyRunning`, naming the output that is locked. When a process dies, the operating system releases its
    locks. The lock files stay, and name the process that held them last.
    """
    import filelock

    held = {config.database: config.database.with_name(config.database.name + ".lock")}
    held |= {folder: folder / LOCK_NAME for folder in (config.stems, config.quarantine) if folder}
    with contextlib.ExitStack() as stack:
        for output, lock_file in held.items():
            try:
                stack.enter_context(filelock.FileLock(lock_file, timeout=0))
                # Windows forbids writing to a locked file.
                with contextlib.suppress(OSError):
                    lock_file.write_text(str(os.getpid()), encoding="ascii")
            except filelock.Timeout:
                holder = lock_file.read_text(encoding="ascii") if os.name == "posix" else "unknown"
                raise AlreadyRunning(
                    f"{printable(output)} is in use by another run (process {holder}): wait for it"
                ) from None
            except OSError as error:
                raise RunStopped(f"{printable(output)}: not writable: {with_remedy(error)}") from None
        yield


def drop_wav(wav: Path | None) -> None:
    """Remove a WAV whose row is gone or has another WAV now."""
    if wav is not None:
        try:
            wav.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: an old WAV that no row names cannot be removed: %s", printable(wav), error)
