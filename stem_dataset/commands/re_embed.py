"""--re-embed: replace the vectors that another model or engine made."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from typing import Literal

from stem_dataset.clap.vectors import BAD_VECTOR_TEXT
from stem_dataset.commands.stored_stems import StoredStems, advice_for
from stem_dataset.datatypes import ReadStem, StoredStem
from stem_dataset.errors import MachineFault
from stem_dataset.logs import log, printable
from stem_dataset.summary import Problem, ReEmbedding


class ReEmbed(StoredStems):
    """One run of --re-embed.

    Each row names the model of its vector. A run may therefore be stopped at any time, and the next one continues.
    """

    flag = "--re-embed"
    account: ReEmbedding

    def run(self, account: ReEmbedding) -> None:
        """Replace each vector that is not comparable with this run's.

        Every row is counted in `account`.
        """
        self.account = account
        model = self.session.embedding_model
        used = self.database.forget_unused_models()
        account.rows, account.already_done = used.total(), used[model]
        account.left = account.rows - account.already_done
        with self.progress.over(account.left):
            if not self._begin():
                log.info("nothing to re-embed: all %d rows have vectors of %s", account.rows, model)
                return
            stems = self.database.stems_of_other_models(model)
            self.embed_all(itertools.islice(stems, self.config.limit), self._replace_vectors, self._fail_to_read)
        self.database.forget_unused_models()

    def _begin(self) -> bool:
        """Load CLAP, and return whether there are rows to embed.

        Rows of this run's model are marked as outdated if its engine makes other vectors now. CLAP is not loaded if all
        rows are of this run's model and no row's engine is known.
        """
        account, session = self.account, self.session
        former = self.database.first_provenance(session.embedding_model)
        if account.left or former is not None:
            session.load()
            if session.differs_from(former):
                text = "%s made other vectors than this run's engine, %s: all of them are replaced"
                log.info(text, former, session.provenance)
                self.database.mark_outdated(session.embedding_model)
                account.left, account.already_done = account.rows, 0
                self.progress.restart(account.rows)
        return account.left > 0

    def _replace_vectors(self, embedded: Sequence[tuple[ReadStem, bytes | None]]) -> None:
        """Write the good vectors; rows with bad ones stay unchanged."""
        self.write_vectors([(read.stem, vector) for read, vector in embedded if vector])
        for read, vector in embedded:
            if vector is None:
                self._fail(read.stem, BAD_VECTOR_TEXT)
            else:
                self._count_row("re_embedded")

    def _fail_to_read(self, stem: StoredStem, fault: MachineFault) -> None:
        self._fail(stem, f"{fault}; {advice_for(fault, '--re-embed')}")

    def _fail(self, stem: StoredStem, reason: str) -> None:
        remove = f"""sqlite3 {shlex.quote(str(self.config.database))} "DELETE FROM stems WHERE id = '{stem.id}'\""""
        log.error(
            "%s: failed, its row keeps its former vector: %s. To continue without this file, remove its row: %s",
            printable(stem.original_file),
            printable(reason),
            printable(remove),
        )
        self.account.failed_files.append(Problem(stem.original_file, reason))
        self._count_row("failed")

    def _count_row(self, outcome: Literal["re_embedded", "failed"]) -> None:
        setattr(self.account, outcome, getattr(self.account, outcome) + 1)
        self.account.left -= 1
        self.progress.advance()
