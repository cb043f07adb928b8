"""--list-missing and --forget-missing: the rows whose files are gone."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stem_dataset.commands.stored_stems import StoredStems
from stem_dataset.config import Config
from stem_dataset.database.connection import open_read_only, require_database, stored_files
from stem_dataset.datatypes import StoredFile
from stem_dataset.drives import DEAD_DRIVE_TEXT, STAT_S, start_call
from stem_dataset.errors import RunStopped, UsageError
from stem_dataset.files import is_inside
from stem_dataset.logs import log, print_lines, printable
from stem_dataset.output_folders import drop_wav
from stem_dataset.signals import TICK_S
from stem_dataset.summary import Forgetting

# Each transaction deletes this many rows. Their WAVs are removed before it.
ROWS_PER_BATCH = 500


@dataclass(frozen=True, slots=True)
class Missing:
    """A row whose file is not where it was.

    out_of_reach: why the file may still exist, since its drive may be absent; '' if it is gone
    """

    file: StoredFile
    out_of_reach: str


class FolderAt:
    """What is in a folder now, asked once."""

    def __init__(self, path: str) -> None:
        """Look at the folder; raises TimeoutError if its drive hangs."""
        self.names: set[str] = set()
        self.problem = ""
        self.is_mount_point = False
        self.device: int | None = None  # None: there is no such folder
        start_call(self._look, path).result(STAT_S)

    def _look(self, path: str) -> None:
        try:
            self.device = os.stat(path).st_dev
            self.names = set(os.listdir(path))
            self.is_mount_point = os.path.ismount(path)
        except (FileNotFoundError, NotADirectoryError):
            self.device = None
        except OSError as error:
            self.problem = str(error)


class Folders:
    """The folders of all rows, and which of them are on drives that are present."""

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        self.on_wait = on_wait
        self._seen: dict[str, FolderAt] = {}
        self._silent: list[str] = []
        # Folders that hold, at any depth and on their own device, the file of a row.
        self._holding: set[tuple[str, int]] = set()

    def at(self, path: str) -> FolderAt:
        """Return what is in a folder; raises TimeoutError if its drive hangs."""
        if path not in self._seen:
            self.on_wait()
            if any(is_inside(path, silent) for silent in self._silent):
                raise TimeoutError(DEAD_DRIVE_TEXT)
            try:
                self._seen[path] = FolderAt(path)
            except TimeoutError:
                self._silent.append(self._topmost_silent(path))
                raise
        return self._seen[path]

    def _topmost_silent(self, path: str) -> str:
        """Return the topmost folder that hangs, so that those below it do not each cost `STAT_S`."""
        for parent in reversed(Path(path).parents):
            try:
                self._seen[str(parent)] = FolderAt(str(parent))
            except TimeoutError:
                return str(parent)
        return path

    def has(self, path: str) -> bool:
        """Whether there is a file at `path`; notes that its folder's drive is present."""
        folder, name = os.path.split(path)
        there = self.at(folder)
        # A file system may store a name in another form than it was given.
        is_there = name in there.names or (there.device is not None and os.path.lexists(path))
        if is_there and there.device is not None:
            self._note_holding(folder, there.device)
        return is_there

    def _note_holding(self, folder: str, device: int) -> None:
        while (folder, device) not in self._holding:
            self._holding.add((folder, device))
            folder = os.path.dirname(folder)

    def out_of_reach(self, path: str) -> str:
        """Return why the missing file at `path` may still exist; '' if its drive is present.

        All rows must have passed through `has`. The drive is present if the file's folder has content, and is not the
        mount point of perhaps another drive. It is also present if the nearest folder that exists has files of other
        rows below it, on its own device: a mount point of an absent drive has none.
        """
        try:
            folder = os.path.dirname(path)
            there = self.at(folder)
            if there.problem:
                return there.problem
            if any(not name.startswith(".") for name in there.names) and not there.is_mount_point:
                return ""
            nearest = folder
            while self.at(nearest).device is None and nearest != os.path.dirname(nearest):
                nearest = os.path.dirname(nearest)
        except TimeoutError:
            return DEAD_DRIVE_TEXT
        device = self.at(nearest).device
        if device is not None and (nearest, device) in self._holding:
            return ""
        if nearest != folder:
            return f"its folder is not there, and no other file of a row in {printable(nearest)}: is a drive absent?"
        return "its folder is empty, as the place of an absent drive is: if it is not one, remove the folder"


def missing_files(files: Iterable[StoredFile], folders: Folders) -> list[Missing]:
    """Return the rows whose files are not where they were."""
    missing = []
    for file in files:
        try:
            if not folders.has(file.original_file):
                missing.append(file)
        except TimeoutError:
            missing.append(file)
    return [Missing(file, folders.out_of_reach(file.original_file)) for file in missing]


def list_missing(config: Config, on_wait: Callable[[], None]) -> int:
    """Print the rows whose files are missing, and return the exit code; nothing is written."""
    require_database(config.database, "--list-missing")
    try:
        with contextlib.closing(open_read_only(config.database)) as connection:
            files = list(_rows_below_input(config, stored_files(connection)))
    except sqlite3.Error as error:
        raise RunStopped(f"{printable(config.database)}: cannot be read: {error}") from None
    missing = missing_files(files, Folders(on_wait))
    print_lines(
        f"out of reach: {printable(each.file.original_file)} ({each.out_of_reach})"
        if each.out_of_reach
        else f"gone: {printable(each.file.original_file)}"
        for each in missing
    )
    account = Forgetting("")
    _count(account, len(files), missing)
    log.info("%d rows: %s; nothing was touched", account.rows, account.what_is_missing)
    return 0


def _rows_below_input(config: Config, files: Iterable[StoredFile]) -> Iterator[StoredFile]:
    """Yield the rows below the input if one is given, else all."""
    root = os.path.realpath(config.input) if config.input else os.sep
    return (file for file in files if config.input is None or is_inside(file.original_file, root))


def _count(account: Forgetting, rows: int, missing: Iterable[Missing]) -> None:
    account.rows = rows
    for each in missing:
        account.out_of_reach += bool(each.out_of_reach)
        account.gone += not each.out_of_reach
        account.rated += each.file.is_rated and not each.out_of_reach
    account.left = account.gone


def refuse_without_terminal(is_sure: bool) -> None:
    """Raise `UsageError` if --forget-missing can ask nobody."""
    if not is_sure and not (sys.stdin is not None and sys.stdin.isatty()):
        raise UsageError(
            "--forget-missing: asks before it forgets, and there is no terminal: look at what --list-missing prints, "
            "then give --yes; nothing was changed"
        )


class ForgetMissing(StoredStems):
    """One run of --forget-missing.

    It may be killed at any moment and run again: a row is deleted after its WAV.
    """

    flag = "--forget-missing"
    needs_clap = False

    def run(self, account: Forgetting) -> None:
        """Delete the rows whose files are gone, with their WAVs, if the user agrees."""
        with self.database.errors():
            files = list(_rows_below_input(self.config, stored_files(self.database.connection)))
        missing = missing_files(files, Folders(self.progress.tick))
        _count(account, len(files), missing)
        gone = [each.file for each in missing if not each.out_of_reach]
        for each in missing:
            if each.out_of_reach:
                log.warning("%s: its row is kept: %s", printable(each.file.original_file), each.out_of_reach)
        if gone and not account.is_sure and not self._user_agrees(account):
            log.info("nothing was forgotten")
            return
        with self.progress.over(len(gone)):
            for start in range(0, len(gone), ROWS_PER_BATCH):
                self._forget(gone[start : start + ROWS_PER_BATCH], account)

    def _user_agrees(self, account: Forgetting) -> bool:
        return answer_to(
            f"Forget {account.gone} rows whose files are gone, {account.rated} of them with your rating, and remove "
            "their WAVs? A file that you have moved keeps its row and rating if you import its new place first. [y/N] ",
            self.progress.tick,
        )

    def _forget(self, files: Iterable[StoredFile], account: Forgetting) -> None:
        # A file may have come back while the question was open.
        gone = [file for file in files if not os.path.lexists(file.original_file)]
        # After a kill in between, the next --forget-missing finds the row. A WAV without a row would stay for ever.
        for file in gone:
            drop_wav(Path(file.path) if file.path else None)
        self.database.forget([file.id for file in gone])
        account.forgotten += len(gone)
        account.left -= len(gone)
        self.progress.advance(len(gone))
        self.progress.tick()


def answer_to(question: str, on_wait: Callable[[], None]) -> bool:
    """Ask a question on the terminal, and return whether the answer is yes.

    The answer is read in a thread: Ctrl-C would not end a read in this one.
    """
    answers: list[str] = []
    print(question, end="", file=sys.stderr, flush=True)
    reader = threading.Thread(target=lambda: answers.append(sys.stdin.readline()), daemon=True)
    reader.start()
    while reader.is_alive():
        reader.join(TICK_S)
        on_wait()
    return bool(answers) and answers[0].strip().lower() in ("y", "yes")
