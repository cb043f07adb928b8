"""The map of the page: whether there is one, how far it is, and what it shows.

It is kept beside the database, and belongs to one state of the library. Stems that came since it was made have no place
until it is computed again, which leaves the others where they are.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from stem_dataset.datatypes import Float32
from stem_dataset.page.audio import FileGone
from stem_dataset.page.opened import OpenLibrary
from stem_dataset.search.columns import NOT_KNOWN
from stem_dataset.search.map_process import MapComputation, Standing
from stem_dataset.search.sound_map import SoundMap, find_map, map_file

# The code of a stem without a category, or of one whose category has no code.
NO_CATEGORY = 255


class PageMap:
    """Finds the map, and has it computed in a process of its own."""

    def __init__(self, opened: OpenLibrary) -> None:
        self.opened = opened
        self.file = map_file(opened.database)
        self.lock = threading.Lock()
        self.computation: MapComputation | None = None
        # The state and the file that `found` was found for.
        self.found_for: tuple[object, ...] | None = None
        self.found: SoundMap | None = None

    def standing(self) -> dict[str, Any]:
        """Return whether there is a map, and how far its computation is."""
        with self.lock:
            computed = self.computation.standing if self.computation is not None else Standing(state="stopped")
        if computed.state == "computing":
            return self._told("computing", computed, None)
        return self._told("none" if self._map() is None else "ready", computed, self.found)

    def _told(self, state: str, computed: Standing, found: SoundMap | None) -> dict[str, Any]:
        return {
            "state": state,
            "done": computed.done,
            "total": computed.total,
            "activity": computed.activity,
            "rows": len(self.opened.state.library.vectors),
            "missing": 0 if found is None else len(found.missing),
            "error": computed.error,
        }

    def start(self) -> dict[str, Any]:
        """Compute the map if there is none, or if stems have no place yet; return the standing."""
        found = self._map()
        with self.lock:
            is_computing = self.computation is not None and self.computation.standing.state == "computing"
            if not is_computing and (found is None or len(found.missing)):
                self.computation = MapComputation(self.opened.database, self.file)
        return self.standing()

    def points(self) -> Float32:
        """Return two coordinates for each position, (N, 2); NaN for those without a place."""
        found = self._map()
        if found is None:
            raise FileGone("there is no map yet")
        return found.places

    def categories(self) -> npt.NDArray[np.uint8]:
        """Return the place of each position's category among the library's, (N,); 255 for none."""
        with self.opened.using() as state:
            codes = state.columns.category
            return np.where((codes == NOT_KNOWN) | (codes >= NO_CATEGORY), NO_CATEGORY, codes).astype(np.uint8)

    def _map(self) -> SoundMap | None:
        """Return the map of the library's present state; None if there is none."""
        with self.opened.using() as state:
            found_for = (state.name, *self._version())
            if self.found_for != found_for:
                self.found, self.found_for = find_map(state.library, self.file), found_for
            return self.found

    def _version(self) -> tuple[int, int]:
        """Return numbers that change when the map is another one."""
        try:
            status = os.stat(self.file)
        except FileNotFoundError:
            return 0, 0
        return status.st_mtime_ns, status.st_ino

    def close(self) -> None:
        """End the computation, if there is one."""
        with self.lock:
            if self.computation is not None:
                self.computation.stop()
