"""All stems that pass a question's filters, in order, kept for scrolling.

A result takes eight bytes per stem. Its rows are read page by page.
"""

from __future__ import annotations

import math
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stem_dataset.datatypes import Float32
from stem_dataset.errors import UsageError
from stem_dataset.page.opened import Outdated, State
from stem_dataset.page.questions import Question
from stem_dataset.search.columns import NOT_KNOWN, ColumnArrays
from stem_dataset.search.library import FUSED_DEPTH, Hit, Library, Ranking
from stem_dataset.search.rank import Positions, in_order

# A page keeps the result it shows; going back shows the one before.
KEPT_RESULTS = 16


@dataclass(frozen=True)
class Result:
    """What a question found.

    state: the name of the library's state, in which the positions hold
    ordered: the positions, (N,), in the order in which they are shown
    cosines: of these positions with the query, (N,); NaN for those without one
    is_ranked: whether the question's words or sounds rank any of them
    """

    state: str
    ordered: npt.NDArray[np.int32]
    cosines: Float32
    is_ranked: bool

    def hits(self, library: Library, start: int, count: int) -> list[Hit]:
        """Return the stems from the place `start`, at most `count`."""
        positions: list[int] = self.ordered[start : start + count].tolist()
        numbers: list[float] = self.cosines[start : start + count].tolist()
        cosines = [None if math.isnan(number) else round(number, 6) for number in numbers]
        return library.hits(positions, dict(zip(positions, cosines, strict=True)), start + 1)


class Results:
    """The last results, by token."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: OrderedDict[str, Result] = OrderedDict()

    def add(self, result: Result) -> str:
        """Keep a result, and return its token."""
        token = uuid.uuid4().hex
        with self.lock:
            self.kept[token] = result
            while len(self.kept) > KEPT_RESULTS:
                self.kept.popitem(last=False)
        return token

    def get(self, token: str) -> Result:
        """Return a result; raises `Outdated` if it is no longer kept."""
        with self.lock:
            if token not in self.kept:
                raise Outdated("this result is no longer kept: search again")
            self.kept.move_to_end(token)
            return self.kept[token]


def result_of(state: State, question: Question, vector: Float32 | None) -> Result:
    """Return the result of a question, whose vector is `vector`, (512,)."""
    library = state.library
    kept = library.filtered(question.filters)
    selected = selection_of(library, question)
    if selected is not None:
        kept = np.intersect1d(kept, selected, assume_unique=True)
    has_query = len(kept) and (question.text is not None or vector is not None)
    ranking = library.ranking(kept, question.text, vector, FUSED_DEPTH) if has_query else empty_ranking(kept)
    ordered = all_ranked(state, kept, ranking)
    shown = sorted_as(state, ordered, question.sort, question.is_reversed)
    all_cosines = np.full(len(library.vectors), np.nan, np.float32)
    all_cosines[ranking.compared] = ranking.cosines
    return Result(state.name, shown.astype(np.int32), all_cosines[shown], len(ranking.positions) > 0)


def empty_ranking(kept: Positions) -> Ranking:
    """Return the ranking of no stems."""
    return Ranking([], kept[:0], np.empty(0, np.float32))


def selection_of(library: Library, question: Question) -> Positions | None:
    """Return the positions of a selection on the map, in ascending order; None if there is none."""
    if question.selected_ids is not None:
        return library.positions_of(question.selected_ids)
    if question.selected_positions is None:
        return None
    positions = np.unique(np.asarray(question.selected_positions, np.int64))
    if len(positions) and positions[-1] >= len(library.vectors):
        raise UsageError(f"positions: {positions[-1]}: there are {len(library.vectors)} stems")
    return positions


def by_path(state: State, positions: Positions) -> Positions:
    """Return positions in the order of their paths."""
    return positions[np.argsort(state.path_ranks[positions], kind="stable")]


def all_ranked(state: State, kept: Positions, ranking: Ranking) -> Positions:
    """Return all of `kept`: those that the search ranks, then the others by cosine, then those without one by path."""
    first = np.asarray(ranking.positions, np.int64)
    is_left = np.zeros(len(state.library.vectors), np.bool_)
    is_left[kept] = True
    is_left[first] = False
    compared = np.flatnonzero(is_left[ranking.compared])
    # Equal ones by position, as `best` has them.
    second = ranking.compared[compared[in_order(ranking.cosines[compared])]]
    is_left[second] = False
    return np.concatenate([first, second, by_path(state, np.flatnonzero(is_left))])


def sorted_as(state: State, ordered: Positions, sort: str, is_reversed: bool) -> Positions:
    """Return positions sorted by a column, the unknown last; equal ones stay in their order."""
    if sort in ("rank", "path"):
        in_order = ordered if sort == "rank" else by_path(state, ordered)
        return in_order[::-1] if is_reversed else in_order
    values = sort_values(state.columns, sort)[ordered]
    return ordered[np.argsort(-values if is_reversed else values, kind="stable")]


def sort_values(columns: ColumnArrays, sort: str) -> Float32:
    """Return a number per position, (N,), to sort by; NaN, which is sorted to the end, where the value is unknown."""
    if sort in ("bpm", "seconds"):
        return columns.bpm if sort == "bpm" else columns.duration_s
    codes: Float32 = np.asarray(getattr(columns, sort), np.float32).copy()
    codes[codes == NOT_KNOWN] = np.nan
    # The best rating first.
    return -codes if sort == "rating" else codes
