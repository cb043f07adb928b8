"""The stems of a database while the page is open, opened again when the database has changed.

Making the sidecar again takes seconds for a large library, and while a preparer runs, the database changes every few
seconds. So this is done for a search, not by itself; not more than once in `LEAST_PAUSE_S`; and not so often that it
takes more than a tenth of the time. If it takes long, no search waits for it. Until it is done, a search answers from
the state before, and says so. What the page shows of a stem is always read from the database itself.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic as monotonic_s

import numpy as np
import numpy.typing as npt

from stem_dataset.config import Config
from stem_dataset.errors import PrepareError
from stem_dataset.logs import log, printable
from stem_dataset.search.ask import reference_of
from stem_dataset.search.columns import ColumnArrays, load_columns, path_ranks
from stem_dataset.search.library import Library
from stem_dataset.search.query_vectors import QueryVectors
from stem_dataset.search.sidecar import card_if_current, open_sidecar, stamp_of

LEAST_PAUSE_S = 30.0
# A pause is at least this many times as long as the sidecar took.
PAUSE_FACTOR = 10
# A search waits for this long, and not longer.
LONG_S = 2.0


class Outdated(PrepareError):
    """What was asked for belongs to a former state of the library."""


@dataclass
class State:
    """One state of the library.

    name: changes when a stem may have another position
    folder: of the sidecar
    path_ranks: the place of each position, (N,), among all stems by path
    """

    name: str
    folder: Path
    library: Library
    files: contextlib.ExitStack
    path_ranks: npt.NDArray[np.int32]
    columns: ColumnArrays


class OpenLibrary:
    """The library of the page. One thread at a time uses its connection, within `using`."""

    def __init__(self, config: Config, tick: Callable[[int, int], None]) -> None:
        """`tick` is called while the sidecar is made, and may raise to stop it."""
        self.config = config
        # SQLite keeps the WAL beside the real file, not beside a link.
        self.database = config.database.resolve()
        self.tick = tick
        self.lock = threading.RLock()
        self.opening = threading.Lock()
        self.embedding = threading.Lock()
        # The thread that opens it again, if that takes long.
        self.reopening: threading.Thread | None = None
        self.next_look_s = self.took_s = 0.0
        self.is_stale = False
        self.stamp: list[int] = []
        self.state = self._opened()
        self._query_vectors = self._new_query_vectors()

    def _opened(self) -> State:
        started_s = monotonic_s()
        # Before the files are opened: a commit after it makes the next search look again.
        stamp = stamp_of(self.database)
        with contextlib.ExitStack() as files:
            sidecar = files.enter_context(open_sidecar(self.database, self.tick))
            library = Library(sidecar)
            # Of a million stems, these take three seconds, so no search should have to wait for them.
            ranks, columns = path_ranks(library.connection), load_columns(library.connection)
            state = State(sidecar.card["vectors"], sidecar.folder, library, files.pop_all(), ranks, columns)
        self.stamp, self.is_stale = stamp, False
        now_s = monotonic_s()
        self.took_s = now_s - started_s
        self.next_look_s = now_s + max(LEAST_PAUSE_S, PAUSE_FACTOR * self.took_s)
        return state

    def refresh(self, is_urgent: bool = False) -> None:
        """Open the library again if the database has changed, and if it is time to, or if it `is_urgent`.

        Where that takes long, a thread does it, and meanwhile the former state answers.
        """
        if not self.opening.acquire(blocking=is_urgent):
            self.is_stale = True
            return
        with contextlib.ExitStack() as held:
            held.callback(self.opening.release)
            if stamp_of(self.database) == self.stamp or self._is_patched():
                self.is_stale = False
                return
            self.is_stale = True
            if is_urgent or (monotonic_s() >= self.next_look_s and self.took_s <= LONG_S):
                self._reopen()
            elif monotonic_s() >= self.next_look_s:
                self.reopening = threading.Thread(target=self._reopen_alone, args=(held.pop_all(),), daemon=True)
                self.reopening.start()

    def _reopen(self) -> None:
        state = self._opened()
        with self.lock:
            former, self.state = self.state, state
            if self._query_vectors.embedding_model != state.library.embedding_model:
                self._query_vectors = self._new_query_vectors()
        former.files.close()

    def _reopen_alone(self, held: contextlib.ExitStack) -> None:
        """Open the library again in a thread, and then close `held`. After an error, there is a pause too."""
        with held:
            try:
                self._reopen()
            except (PrepareError, sqlite3.Error, OSError, MemoryError) as error:
                self.next_look_s = monotonic_s() + LEAST_PAUSE_S
                log.error("the changes of the database cannot be searched: %s", printable(error))

    def _is_patched(self) -> bool:
        """Return whether the sidecar that is open has been brought up to date, by a change of the owner."""
        card = card_if_current(self.state.folder, self.database)
        if card is None or card["vectors"] != self.state.name:
            return False
        self.stamp = card["stamp"]
        return True

    def note_change(self, stem_id: str) -> None:
        """Read a stem again, after the owner has changed it."""
        # If the library is being opened, the next search looks anyway.
        if self.opening.acquire(blocking=False):
            try:
                self._is_patched()
            finally:
                self.opening.release()
        with self.lock:
            positions = self.state.library.positions_of([stem_id]).tolist()
            self.state.columns.refresh(self.state.library.connection, positions)

    def _new_query_vectors(self) -> QueryVectors:
        library = self.state.library
        return QueryVectors(library.embedding_model, reference_of(library), self.config)

    @property
    def query_vectors(self) -> QueryVectors:
        """What embeds texts and sounds; it is kept, since it may have loaded CLAP."""
        return self._query_vectors

    @contextlib.contextmanager
    def using(self, name: str | None = None) -> Iterator[State]:
        """Hold the present state; raises `Outdated` if it is not the one called `name`."""
        with self.lock:
            if name not in (None, self.state.name):
                raise Outdated("the library has changed since this search: search again")
            yield self.state

    def close(self) -> None:
        """Close the files."""
        with self.lock:
            self.state.files.close()
