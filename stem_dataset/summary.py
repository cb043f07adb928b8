"""The outcomes of a run, for its last line and --report."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from stem_dataset.errors import RunStopped, UsageError, with_remedy
from stem_dataset.logs import log, printable


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that was quarantined or failed, as --report lists it."""

    file: str
    reason: str
    quarantined_as: str | None = None


@dataclass
class Summary:
    """The account of a run: each file found is in exactly one count.

    copied, moved and vectors_kept are parts of `inserted`: files with the bytes of another row; files that took over
    the row of a file that is gone; files whose bytes changed but not their samples.
    left: not started, or dropped because of --limit, Ctrl-C or a stopped run
    vanished: rows under the input whose file is gone
    unseen: files and folders that could not be read
    """

    run_id: str
    found: int = 0
    already_done: int = 0
    inserted: int = 0
    copied: int = 0
    moved: int = 0
    vectors_kept: int = 0
    quarantined: int = 0
    failed: int = 0
    left: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    vanished: int = 0
    unseen: list[str] = field(default_factory=list)
    quarantined_files: list[Problem] = field(default_factory=list)
    failed_files: list[Problem] = field(default_factory=list)
    seconds: float = 0.0

    def fail_unseen(self, path: str, reason: str) -> None:
        """Count a file or folder that could not be read."""
        self.failed += 1
        self.unseen.append(path)
        self.failed_files.append(Problem(path, reason))

    @property
    def sum_closes(self) -> bool:
        """Whether each file found has exactly one outcome."""
        parts = self.already_done + self.inserted + self.quarantined + self.failed + self.left
        return self.found == parts + self.ignored.total()

    @property
    def files_per_s(self) -> float:
        """Files with an outcome, per second of this run."""
        return (self.inserted + self.quarantined + self.failed) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        ignored = f"{self.ignored.total()} ignored"
        if self.ignored:
            ignored += " (" + ", ".join(f"{count} {reason}" for reason, count in sorted(self.ignored.items())) + ")"
        ways = {"copied": self.copied, "moved": self.moved, "with their former vectors": self.vectors_kept}
        without_clap = ", ".join(f"{count} {way}" for way, count in ways.items() if count)
        inserted = f"{self.inserted} inserted" + (f" ({without_clap})" if without_clap else "")
        left = f", {self.left} left for the next run" if self.left else ""
        vanished = f"; the files of {self.vanished} rows are gone" if self.vanished else ""
        return (
            f"found {self.found}: {self.already_done} already done, {inserted}, "
            f"{self.quarantined} quarantined, {self.failed} failed, {ignored}{left}{vanished}; "
            f"{self.seconds:.1f} s, {self.files_per_s:.1f} files/s"
        )


@dataclass
class ReEmbedding:
    """The account of --re-embed: each row is in exactly one count.

    left: not started, or dropped because of --limit, Ctrl-C or a stopped run
    """

    run_id: str
    rows: int = 0
    re_embedded: int = 0
    already_done: int = 0
    failed: int = 0
    left: int = 0
    failed_files: list[Problem] = field(default_factory=list)
    seconds: float = 0.0
    next_step = ""

    @property
    def sum_closes(self) -> bool:
        """Whether each row has exactly one outcome."""
        return self.rows == self.re_embedded + self.already_done + self.failed + self.left

    def __str__(self) -> str:
        left = f", {self.left} left for the next --re-embed" if self.left else ""
        return (
            f"{self.rows} rows: re-embedded {self.re_embedded}, already of this model {self.already_done}, "
            f"failed {self.failed}{left}; {self.seconds:.1f} s"
        )


@dataclass
class Verification:
    """The account of --verify-vectors.

    Each row is checked, unreadable, of another model, or left.

    percent: the share of the rows to check
    replaces: whether wrong vectors are replaced (with --re-embed)
    differ: rows among `checked` whose vector is wrong; `replaced` are those among them that were replaced
    unreadable: neither WAV nor original can be used, or CLAP gives no vector for them
    findings: a line for each row that differs or is unreadable
    left: not in the sample, or not reached because of --limit, Ctrl-C or a stopped run
    """

    run_id: str
    percent: float
    replaces: bool = False
    rows: int = 0
    checked: int = 0
    differ: int = 0
    replaced: int = 0
    unreadable: int = 0
    other_models: int = 0
    left: int = 0
    findings: list[str] = field(default_factory=list)
    failed_files: list[Problem] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def sum_closes(self) -> bool:
        """Whether each row has exactly one outcome."""
        parts = self.checked + self.unreadable + self.other_models + self.left
        return self.rows == parts and self.checked >= self.differ >= self.replaced

    @property
    def failed(self) -> int:
        """The number of rows that hold a wrong vector, or may hold one."""
        return self.differ - self.replaced + self.unreadable

    @property
    def next_step(self) -> str:
        """What the user should do about wrong vectors; '' for nothing."""
        if self.differ == 0 or (self.differ == self.replaced and self.left == 0):
            return ""
        holds = "holds wrong vectors" if self.differ > self.replaced else "may hold more wrong vectors"
        rest = f" ({self.left} rows are not checked yet)" if self.left else ""
        return (
            f"the database {holds}: run --verify-vectors all --re-embed, with the same other flags. It checks all rows"
            f"{rest} and replaces the vectors that differ"
        )

    def __str__(self) -> str:
        return (
            f"{self.rows} rows: {self.checked} checked, {self.differ} differ, {self.replaced} replaced, "
            f"{self.unreadable} unreadable, {self.other_models} of other models, {self.left} not checked; "
            f"{self.seconds:.1f} s"
        )


@dataclass
class Forgetting:
    """The account of --forget-missing.

    gone: rows whose files are gone; `rated` are those among them that have the user's rating
    out_of_reach: rows whose files are missing, perhaps with their drives; they are kept
    left: rows among `gone` that were not forgotten: the user said no, or the run was stopped, or the file came back
    """

    run_id: str
    is_sure: bool = False
    rows: int = 0
    gone: int = 0
    rated: int = 0
    out_of_reach: int = 0
    forgotten: int = 0
    left: int = 0
    seconds: float = 0.0
    failed = 0
    next_step = ""

    @property
    def what_is_missing(self) -> str:
        """The counts of missing files, for a person."""
        return (
            f"the files of {self.gone} are gone ({self.rated} of these rows have your rating), "
            f"those of {self.out_of_reach} are out of reach"
        )

    def __str__(self) -> str:
        return f"{self.rows} rows: {self.what_is_missing}; {self.forgotten} forgotten; {self.seconds:.1f} s"


@dataclass
class LibraryCheck:
    """The account of --verify.

    rows, wavs, quarantined: how many were checked
    vectors: how many were computed again
    findings: a line for each thing that is wrong
    """

    run_id: str
    rows: int = 0
    wavs: int = 0
    quarantined: int = 0
    vectors: int = 0
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    next_step: str = ""

    @property
    def failed(self) -> int:
        """The number of findings."""
        return len(self.findings)

    def __str__(self) -> str:
        return (
            f"{self.rows} rows, {self.wavs} WAVs and {self.quarantined} quarantined files checked, {self.vectors} "
            f"vectors computed again: {self.failed or 'no'} findings; {self.seconds:.1f} s"
        )


StoredAccount = ReEmbedding | Verification | Forgetting | LibraryCheck
Account = Summary | StoredAccount


class Report:
    """The file of --report; without a path, it is not written."""

    def __init__(self, path: Path | None) -> None:
        """Open the file, so that a mistyped folder ends the run before it begins.

        Raises `UsageError` if it cannot be written. What an earlier run wrote there is lost: if this run is killed, its
        account must not be taken for this run's.
        """
        self.path = path
        try:
            self.file = path.open("w", encoding="utf-8") if path else None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE):
                raise
            missing = path is not None and not path.parent.is_dir()
            why = f"there is no folder {printable(path.parent)}" if path and missing else printable(with_remedy(error))
            raise UsageError(f"--report {printable(path)}: cannot be written: {why}") from None

    def write(self, account: Account, exit_code: int) -> int:
        """Write the account as JSON, and return the program's exit code: 4 instead of 0 if that failed."""
        if self.file is None:
            return exit_code
        try:
            with self.file as file:
                content = {**dataclasses.asdict(account), "exit_code": exit_code}
                if isinstance(account, Summary):
                    # `asdict` would turn a Counter into a count of its (key, value) pairs.
                    content |= {"ignored": dict(account.ignored), "files_per_s": round(account.files_per_s, 3)}
                file.write(json.dumps(content, indent=1) + "\n")
        except OSError as error:  # the run's own outcome stands
            log.error("--report %s: cannot be written: %s", printable(self.path), printable(with_remedy(error)))
            return exit_code or RunStopped.exit_code
        return exit_code
