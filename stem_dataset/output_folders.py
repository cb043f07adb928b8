"""The output folders: create, mark and lock them, and where a WAV goes in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stem_dataset.config import Config
from stem_dataset.errors import AlreadyRunning, MachineFault, RunStopped, with_remedy
from stem_dataset.files import open_regular
from stem_dataset.logs import log, printable

SCRATCH = ".prepare_dataset.unfinished"  # folder of half-written WAVs, beside the finished ones
LOCK_NAME = ".prepare_dataset.lock"
README_NAME = "README.txt"
# The first line of each README. Folders in use have it: another text would no longer recognise them.
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
    """Create the output folders, with a README in each; raises `RunStopped` where that cannot be."""
    readmes = {config.stems: STEMS_README, config.quarantine: QUARANTINE_README}
    if not config.database.parent.exists():  # else it may be any folder of the user's
        readmes = {config.database.parent: DATABASE_README, **readmes}
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
    for output, readme_text in readmes.items():
        if output is not None:
            write_readme(output, readme_text)


def write_readme(folder: Path, text: str) -> None:
    """Say in `folder` what it is, unless it holds a README. A disk without room for that stops no run."""
    readme = folder / README_NAME
    with contextlib.suppress(OSError):
        if not os.path.lexists(readme) or _is_empty_file(readme):  # the disk was full, or that run was killed
            readme.write_text(f"{MARKER}\n\n{text}", encoding="ascii")


def _is_empty_file(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def is_output_folder(folder: str | Path) -> bool:
    """Return whether this program, in any run, wrote its output to `folder`, which its README says."""
    try:
        with open_regular(os.path.join(folder, README_NAME)) as file:
            return file.readline(len(MARKER) + 2).rstrip(b"\r\n") == MARKER.encode("ascii")
    except (OSError, MachineFault):  # no README, or a FIFO of that name
        return False


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
