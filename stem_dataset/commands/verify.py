"""--verify-vectors: compute stored vectors again, and report or replace those that differ."""

from __future__ import annotations

import argparse
import itertools
import math
import random
from array import array
from collections.abc import Sequence

from stem_dataset.clap.vectors import BAD_VECTOR_TEXT, cosine_of
from stem_dataset.commands.stored_stems import StoredStems, advice_for
from stem_dataset.datatypes import ReadStem, StoredStem
from stem_dataset.errors import MachineFault, RunStopped, UsageError
from stem_dataset.logs import log, printable
from stem_dataset.summary import Problem, Verification

# A stored vector is wrong if its cosine with the one computed now is lower. Engines whose reference vectors agree stay
# far above this bound, in bf16 too.
VERIFIED_COSINE = 0.999_9
SAMPLE_PERCENT = 5.0
LEAST_SAMPLE = 200  # rows


def percent_of_rows(text: str) -> float:
    """Parse the value of --verify-vectors: "all", or a percentage up to 100."""
    try:
        percent = 100.0 if text == "all" else float(text.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 < percent <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number over 0 and up to 100 (per cent of the rows), or all")
    return percent


def sample_of(rowids: Sequence[int], percent: float, limit: int | None, seed: str) -> Sequence[int]:
    """Return a uniform sample of `percent` of `rowids`.

    It has at least 200 rows (or all, if there are fewer) and at most `limit`.
    """
    size = min(max(LEAST_SAMPLE, math.ceil(len(rowids) * percent / 100)), len(rowids), limit or len(rowids))
    return sorted(random.Random(seed).sample(rowids, size)) if size < len(rowids) else rowids


class VerifyVectors(StoredStems):
    """One run of --verify-vectors."""

    flag = "--verify-vectors"
    account: Verification
    # The rowids of rows that are not to be checked.
    left_out: frozenset[int] = frozenset()

    def run(self, account: Verification) -> None:
        """Compute stored vectors again, and log the rows whose vectors differ.

        A random sample of `account.percent` of the rows of this run's model is checked, but at least 200 rows. With
        `account.replaces`, vectors that differ are replaced, and after the first one all rows are checked. Otherwise no
        row changes. Raises `UsageError` if no row is of this model.
        """
        self.account = account
        if not account.replaces:
            self.database.forbid_writes()
        rows = self._rows_to_verify()
        if not rows:
            log.info("nothing to verify: %s has no rows", printable(self.config.database))
            return
        sample = sample_of(rows, account.percent, self.config.limit, account.run_id)
        drawn = f", a random sample with the run's id, {account.run_id}, as its seed" if len(sample) < len(rows) else ""
        log.info("checking the vectors of %d of %d rows%s", len(sample), len(rows), drawn)
        with self.progress.over(len(sample)):
            self.session.load()
            former = self.database.first_provenance(self.session.embedding_model)
            # Otherwise every row would differ, and replacing some of them would mix the vectors of two engines.
            if former is not None and self.session.differs_from(former):
                raise RunStopped(f"{self.session.conflict_text(former)} without --verify-vectors; no row was checked")
            self.embed_all(self.database.stems_at(sample), self._check_vectors, self._cannot_read)
            if account.replaces and account.differ:
                self._check_the_rest(rows, sample)

    def _rows_to_verify(self) -> Sequence[int]:
        """Return the rowids of the rows to check, which have vectors of this run's model.

        It cannot check the other rows, and warns about them.
        """
        account, model = self.account, self.session.embedding_model
        rowids = self.database.rowids_by_model()
        account.rows = sum(map(len, rowids.values()))
        own = rowids.pop(model, array("q"))
        account.left, account.other_models = len(own), account.rows - len(own)
        if rowids:
            text = (
                f"{account.other_models} of {account.rows} rows in {printable(self.config.database)} hold vectors of "
                f"{' and '.join(sorted(rowids))}, which this run's model, {model}, cannot check: verify "
                "them with the settings that made them (checkpoint, precision, max_windows), or replace all of them "
                "with --re-embed without --verify-vectors"
            )
            if not own:
                raise UsageError(text)
            log.warning("%s", text)
        return array("q", (rowid for rowid in own if rowid not in self.left_out)) if self.left_out else own

    def _check_the_rest(self, rows: Sequence[int], sample: Sequence[int]) -> None:
        """Check the rows outside the sample.

        Since the sample had wrong vectors, there are probably more.
        """
        drawn = set(sample)
        limit = self.config.limit or len(rows)
        rest = array("q", itertools.islice((row for row in rows if row not in drawn), limit - len(sample)))
        if not rest:
            return
        log.warning(
            "%d of %d rows differ: the other %d are checked as well", self.account.differ, len(sample), len(rest)
        )
        self.progress.extend(len(rest))
        self.embed_all(self.database.stems_at(rest), self._check_vectors, self._cannot_read)

    def _check_vectors(self, embedded: Sequence[tuple[ReadStem, bytes | None]]) -> None:
        """Report the rows whose stored vectors differ from the new ones.

        With --re-embed they are replaced.
        """
        account = self.account
        compared = [(read.stem, new, cosine_of(read.stem.clap_embedding, new)) for read, new in embedded if new]
        # `not >=` also catches NaN.
        wrong = [(stem, new, cosine) for stem, new, cosine in compared if not cosine >= VERIFIED_COSINE]
        if account.replaces:
            self.write_vectors([(stem, new) for stem, new, _ in wrong])
            account.replaced += len(wrong)
        for stem, _, cosine in wrong:
            finding = (
                f"{printable(stem.original_file)} (id {stem.id}): its stored vector is wrong: cosine {cosine:.6f} with "
                f"the one computed now{'; replaced' if account.replaces else ''}"
            )
            log.warning("%s", finding)
            account.findings.append(finding)
        account.differ += len(wrong)
        account.checked += len(compared)
        self._count(len(compared))
        for read, vector in embedded:
            if vector is None:
                self._cannot_check(read.stem, BAD_VECTOR_TEXT)

    def _cannot_read(self, stem: StoredStem, fault: MachineFault) -> None:
        self._cannot_check(stem, f"unreadable: {fault}; {advice_for(fault, '--verify-vectors')}")

    def _cannot_check(self, stem: StoredStem, reason: str) -> None:
        finding = f"{printable(stem.original_file)} (id {stem.id}): not checked: {printable(reason)}"
        log.error("%s", finding)
        self.account.findings.append(finding)
        self.account.unreadable += 1
        self.account.failed_files.append(Problem(stem.original_file, reason))
        self._count(1)

    def _count(self, rows: int) -> None:
        self.account.left -= rows
        self.progress.advance(rows)
