"""--verify: check the database file, every row with its files, the quarantine, and a sample of the vectors."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import numpy as np

from stem_dataset.audio.wav import SAMPLE_BYTES, WAV_HEADER_BYTES, wav_header
from stem_dataset.clap.vectors import well_formed
from stem_dataset.commands.stored_stems import StoredStems
from stem_dataset.commands.verify import SAMPLE_PERCENT, VerifyVectors
from stem_dataset.database.connection import RESTORE_TEXT
from stem_dataset.database.damage import damage_of, readable_rows
from stem_dataset.datatypes import EMBEDDING_BYTES, RowToCheck
from stem_dataset.drives import start_call
from stem_dataset.errors import MachineFault, UsageError
from stem_dataset.files import open_regular, sha256_of_path
from stem_dataset.logs import log, printable
from stem_dataset.quarantine import json_path_of, read_entry
from stem_dataset.resources import usable_workers
from stem_dataset.summary import LibraryCheck, Verification

Checked = TypeVar("Checked")


class CheckLibrary(StoredStems):
    """One run of --verify; it changes no row and no file."""

    flag = "--verify"
    account: LibraryCheck

    def run(self, account: LibraryCheck) -> None:
        """Check everything, and log a line for each finding."""
        self.account = account
        self.database.forbid_writes()
        damage = damage_of(self.database.path, "integrity_check", self.progress.tick)
        for line in damage:
            self._note(f"{printable(self.database.path)}: is damaged: {line}")
        if damage:
            account.next_step = f"the database is damaged: {RESTORE_TEXT}"
        suspects = self._check_rows()
        self._check_quarantine()
        if damage:
            log.warning("no vector was computed again, since the database is damaged")
        else:
            self._compute_vectors(suspects)

    def _note(self, finding: str) -> None:
        log.error("%s", finding)
        self.account.findings.append(finding)

    def _check_rows(self) -> frozenset[int]:
        """Check each row and its files, then look for WAVs without a row; return the rowids with findings."""
        suspects, wavs = set(), set()
        with self.progress.over(self._count_rows()):
            for row, findings in self._in_threads(findings_of, readable_rows(self.database.connection)):
                for finding in findings:
                    self._note(finding)
                if isinstance(row, RowToCheck):
                    self.account.rows += 1
                    if row.path is not None:
                        wavs.add(os.path.basename(row.path))
                    if findings:
                        suspects.add(row.rowid)
                self.progress.advance()
        self.account.wavs = len(wavs)
        for wav in sorted(self.config.stems.glob("??/*.wav")) if self.config.stems else ():
            if wav.name not in wavs:
                self._note(f"{printable(wav)}: no row names this WAV")
        return frozenset(suspects)

    def _count_rows(self) -> int:
        try:
            return int(self.database.connection.execute("SELECT count(*) FROM stems").fetchone()[0])
        except sqlite3.DatabaseError:
            return 0

    def _in_threads(
        self, check: Callable[[Checked], list[str]], things: Iterable[Checked]
    ) -> Iterator[tuple[Checked, list[str]]]:
        """Yield each of `things` with what `check` finds, in order; Ctrl-C works while a drive hangs."""
        threads = usable_workers(self.config)
        queue: deque[tuple[Checked, Future[list[str]]]] = deque()
        for thing in things:
            self.progress.signals.check()
            queue.append((thing, start_call(check, thing)))
            if len(queue) >= threads:
                thing, found = queue.popleft()
                yield thing, self.progress.wait_for(found)
        while queue:
            self.progress.signals.check()
            thing, found = queue.popleft()
            yield thing, self.progress.wait_for(found)

    def _check_quarantine(self) -> None:
        """Compare the quarantine folder with its JSONs, and with what the database knows of it."""
        files = {os.path.basename(path): self._place_of(Path(path)) for path in self.database.quarantined_paths()}
        known = set(files)
        for json_path in self.config.quarantine.glob("ERROR_*.json"):
            files.setdefault(json_path.name.removesuffix(".json"), json_path.with_suffix(""))
        for path in self.config.quarantine.glob("ERROR_*"):
            if path.suffix != ".json" or json_path_of(path).exists():
                files.setdefault(path.name, path)
        for path, findings in self._in_threads(quarantine_findings, [files[name] for name in sorted(files)]):
            if path.name not in known:
                self._note(f"{printable(path)}: the database does not know this quarantined file")
            for finding in findings:
                self._note(finding)
        self.account.quarantined = len(files)

    def _place_of(self, path: Path) -> Path:
        """Return where a quarantined file is: the quarantine folder may have moved since."""
        return path if os.path.lexists(path.parent) else self.config.quarantine / path.name

    def _compute_vectors(self, suspects: frozenset[int]) -> None:
        """Compute a sample of the vectors again, but not those of rows that already have a finding."""
        verification = Verification(self.account.run_id, SAMPLE_PERCENT)
        work = VerifyVectors(self.config, self.database, self.session, self.progress, self.embed)
        work.left_out = suspects
        try:
            work.run(verification)
        except UsageError as error:
            self._note(f"no vector was computed again: {error}")
        finally:
            self.account.vectors = verification.checked
            self.account.findings += verification.findings


def findings_of(row: RowToCheck | str) -> list[str]:
    """Return what is wrong with a row and its files; a `str` describes a row that cannot be read."""
    if isinstance(row, str):
        return [row]
    title = f"{printable(row.original_file)} (id {row.id})"
    found = [_original_finding(row), _wav_finding(row)]
    if not _is_vector(row.clap_embedding):
        found.append("its vector is not 512 finite numbers of unit length")
    if not row.has_json:
        found.append("its tags or features are not JSON")
    return [f"{title}: {finding}" for finding in found if finding]


def _is_vector(blob: bytes) -> bool:
    if len(blob) != EMBEDDING_BYTES:
        return False
    with np.errstate(invalid="ignore"):
        return bool(well_formed(np.frombuffer(blob, "<f4")))


def _original_finding(row: RowToCheck) -> str:
    try:
        status = os.stat(row.original_file)
    except (FileNotFoundError, NotADirectoryError):
        return "its file is missing (--list-missing says whether its drive may be absent)"
    except OSError as error:
        return f"its file cannot be read: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "its file is no regular file any more"
    if status.st_size != row.size_bytes:
        return f"its file has {status.st_size} bytes, and had {row.size_bytes} when it was imported"
    return ""


def _wav_finding(row: RowToCheck) -> str:
    if row.path is None:
        return ""
    wav = printable(row.path)
    try:
        with open_regular(row.path) as file:
            length_bytes = os.fstat(file.fileno()).st_size - WAV_HEADER_BYTES
            header = file.read(WAV_HEADER_BYTES)
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # accepts IO[bytes]
    except FileNotFoundError:
        return f"its WAV is missing: {wav}"
    except (OSError, MachineFault) as error:
        return f"its WAV {wav} cannot be read: {printable(error)}"
    if digest != row.samples_sha256:
        return f"its WAV {wav} is damaged: its samples are not those that were imported"
    if header != wav_header(length_bytes // SAMPLE_BYTES):
        return f"its WAV {wav} is damaged: its header does not fit its samples"
    return ""


def quarantine_findings(path: Path) -> list[str]:
    """Return what is wrong with a quarantined file and its JSON."""
    name = printable(path)
    entry = read_entry(json_path_of(path))
    if not os.path.lexists(path):
        was = f", which was {printable(entry.original_file)}" if entry else ""
        return [f"{name}: this quarantined file{was}, is missing"]
    if entry is None:
        return [f"{name}: its JSON is missing or cannot be read, so nothing says where it was"]
    if entry.link_target is not None:
        return []
    try:
        size_bytes = path.stat().st_size
        if size_bytes != entry.size_bytes:
            return [f"{name}: has {size_bytes} bytes, and had {entry.size_bytes} when it was quarantined"]
        if sha256_of_path(path) != entry.sha256:
            return [f"{name}: its bytes are not those that were quarantined"]
    except OSError as error:
        return [f"{name}: cannot be read: {error.strerror}"]
    return []
