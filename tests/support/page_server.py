"""The page on a real socket, in a thread of the test."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from libraries import SearchedLibrary
from stem_dataset.config import Config
from stem_dataset.page.desk import Desk
from stem_dataset.page.opened import OpenLibrary
from stem_dataset.page.serve import listening, serve_on
from stem_dataset.signals import StopSignals


@dataclass(frozen=True)
class RunningServer:
    """Where the page is."""

    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running_server(library: SearchedLibrary, stems: Path | None = None) -> Iterator[RunningServer]:
    """Serve the page on a free port while the `with` block runs."""
    config = Config(database=library.database, model_cache=library.folder / "cache", stems=stems)
    signals = StopSignals()
    with (
        listening(0) as listener,
        contextlib.closing(OpenLibrary(config, lambda *_: None)) as opened,
        contextlib.closing(Desk(config, opened)) as desk,
    ):
        thread = threading.Thread(target=serve_on, args=(listener, desk, signals))
        thread.start()
        try:
            yield RunningServer(listener.getsockname()[1])
        finally:
            signals.requested = True
            thread.join(60)
            assert not thread.is_alive()
