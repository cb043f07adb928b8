"""What the page does: search, show, rate and correct, as functions that block."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from stem_dataset.config import Config
from stem_dataset.datatypes import Float32
from stem_dataset.errors import UsageError
from stem_dataset.logs import printable
from stem_dataset.music.key import KEY_NAMES
from stem_dataset.page.audio import FileGone, Waveforms, served, wav_places
from stem_dataset.page.maps import PageMap
from stem_dataset.page.opened import OpenLibrary, State
from stem_dataset.page.questions import Question
from stem_dataset.page.results import Results, result_of
from stem_dataset.page.rows import row_of, shown
from stem_dataset.page.stored import DatabaseReader, StemPaths
from stem_dataset.search.ask import Part, note_on_text, query_vector, sound_of
from stem_dataset.search.columns import NOT_KNOWN, ColumnArrays
from stem_dataset.search.histograms import histograms_of
from stem_dataset.search.library import Hit
from stem_dataset.search.owner_changes import OwnerChanges

# In the place of a corrected tempo or key: there is none.
NO_VALUE = "none"


class Desk:
    """Answers the page. Each function may be called by any thread."""

    def __init__(self, config: Config, opened: OpenLibrary) -> None:
        self.config = config
        self.opened = opened
        self.stored = DatabaseReader(config.database.resolve())
        self.owner_changes = OwnerChanges(config.database, opened.state.folder)
        self.results = Results()
        self.waveforms = Waveforms(config)
        self.map = PageMap(opened)

    # -- finding ------------------------------------------------------------------------------------------------------

    def library(self) -> dict[str, Any]:
        """Return what there is to search."""
        _, quarantined = self.stored.quarantined(0, 0)
        with self.opened.using() as state:
            library = state.library
            return {
                "rows": len(library.vectors),
                "database": shown(self.config.database.name),
                "understands_texts": self.opened.query_vectors.understands_texts,
                "embedding_model": printable(library.embedding_model),
                "categories": categories_of(state.columns),
                "keys": list(KEY_NAMES),
                "quarantined": quarantined,
                "other_model_rows": library.rows_of_other_models(),
                "state": name_of(state),
            }

    def search(self, question: Question) -> dict[str, Any]:
        """Search, and keep the result."""
        self.opened.refresh()
        notes, vector = self._vector_of(question)
        with self.opened.using() as state:
            result = result_of(state, question, vector)
            histograms = dataclasses.asdict(histograms_of(state.columns, result.ordered.astype(np.int64)))
            others = state.library.rows_of_other_models()
            state_name = name_of(state)
        if question.text is not None and vector is None and not result.is_ranked:
            notes.append("no name has these words: the stems are listed by path")
        if others and vector is not None:
            notes.append(f"{others} rows have vectors of another model, which are not compared")
        if self.opened.is_stale:
            notes.append("the database has changed: this search does not show it yet; search again in a minute")
        return {
            "result": self.results.add(result),
            "rows": len(result.ordered),
            "notes": notes,
            "histograms": histograms,
            "state": state_name,
        }

    def _vector_of(self, question: Question) -> tuple[list[str], Float32 | None]:
        """Return what a user should know, and the vector, (512,), to search by."""
        if question.text is None and not question.like and not question.unlike:
            return [], None
        with self.opened.using() as state:
            wanted, unwanted = (
                [stored_sound(state, stem_id, name) for stem_id in ids]
                for name, ids in (("like", question.like), ("unlike", question.unlike))
            )
        query_vectors = self.opened.query_vectors
        note = note_on_text(query_vectors, question.text, bool(wanted or unwanted))
        # A new text needs CLAP, for seconds. Meanwhile, others may search by what needs none.
        with self.opened.embedding:
            vector = query_vector(query_vectors, question.text, wanted, unwanted)
        return [note] if note is not None else [], vector

    def hits(self, token: str, start: int, count: int) -> list[Hit]:
        """Return stems of a result, as the sidecar has them."""
        result = self.results.get(token)
        with self.opened.using(result.state) as state:
            return result.hits(state.library, start, count)

    def rows(self, token: str, start: int, count: int) -> list[dict[str, Any]]:
        """Return stems of a result, with what holds of them now."""
        hits = self.hits(token, start, count)
        now = self.stored.now([hit.id for hit in hits])
        return [row_of(hit, now.get(hit.id)) for hit in hits]

    def ids(self, positions: Sequence[int]) -> list[str]:
        """Return the ids at positions."""
        query = "SELECT position, id FROM stems WHERE position IN (SELECT value FROM json_each(?))"
        with self.opened.using() as state:
            rows = len(state.library.vectors)
            known = [position for position in positions if position < rows]
            found = dict(state.library.connection.execute(query, (json.dumps(known),)).fetchall())
        return [found[position] for position in known]

    # -- one stem -----------------------------------------------------------------------------------------------------

    def paths_of(self, stem_id: str) -> StemPaths:
        """Return the paths of a stem; raises `FileGone` if it is not in the database."""
        paths = self.stored.paths_of(stem_id)
        if paths is None:
            raise FileGone(f"{printable(stem_id)}: no stem has this id any more: search again")
        return paths

    def row(self, stem_id: str) -> dict[str, Any]:
        """Return what holds of a stem now."""
        now = self.stored.now([stem_id]).get(stem_id)
        with self.opened.using() as state:
            positions = state.library.positions_of([stem_id]).tolist()
            hits = state.library.hits(positions)
        if now is None or not hits:
            raise FileGone(f"{printable(stem_id)}: no stem has this id: search again")
        return row_of(hits[0], now)

    def stem(self, stem_id: str) -> dict[str, Any]:
        """Return what holds of a stem, and where its files are."""
        paths = self.paths_of(stem_id)
        return {
            **self.row(stem_id),
            "wav": next((shown(path) for path in wav_places(paths, self.config) if _exists(path)), None),
            "file_exists": _exists(paths.original),
        }

    def waveform(self, stem_id: str) -> dict[str, Any]:
        """Return the shape of a stem."""
        return self.waveforms.of(self.paths_of(stem_id))

    def rate(self, stem_id: str, rating: int | None) -> dict[str, Any]:
        """Set or remove a rating, and return what holds now."""
        self.paths_of(stem_id)
        self.owner_changes.rate(stem_id, rating)
        self.opened.note_change(stem_id)
        return self.row(stem_id)

    def correct(self, stem_id: str, column: str, value: object) -> dict[str, Any]:
        """Set a correction, or remove it with None, and return what holds now.

        The text 'none' says that the stem has no tempo or no key.
        """
        self.paths_of(stem_id)
        if value is None:
            self.owner_changes.uncorrect(stem_id, column)
        else:
            self.owner_changes.correct(stem_id, column, None if value == NO_VALUE else value)
        self.opened.note_change(stem_id)
        return self.row(stem_id)

    def close(self) -> None:
        """End what is being computed."""
        self.map.close()


def categories_of(columns: ColumnArrays) -> list[dict[str, Any]]:
    """Return the categories with their rows, in the order of their codes."""
    rows = np.bincount(columns.category[columns.category != NOT_KNOWN], minlength=len(columns.category_names))
    return [{"name": name, "rows": count} for name, count in zip(columns.category_names, rows.tolist(), strict=True)]


def name_of(state: State) -> str:
    """Return what the page knows a state by; positions belong to one state."""
    return state.name.removeprefix("vectors-").removesuffix(".npy")


def stored_sound(state: State, stem_id: str, name: str) -> Part:
    """Return the vector of a stem, or else its file; raises `UsageError` for anything but an id."""
    if not len(state.library.positions_of([stem_id])):
        raise UsageError(f"{name}: {printable(stem_id)}: no stem has this id: search again")
    return sound_of(state.library, stem_id, name)


def _exists(path: str) -> bool:
    try:
        served(path)
    except FileGone:
        return False
    return True
