"""Serve the page on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator

import uvicorn

from stem_dataset.config import Config
from stem_dataset.errors import UsageError
from stem_dataset.logs import log, printable
from stem_dataset.page.app import make_app
from stem_dataset.page.desk import Desk
from stem_dataset.page.opened import OpenLibrary
from stem_dataset.page.safety import HOST, OwnPagesOnly
from stem_dataset.signals import StopSignals

# What is being sent at the end, such as a song, may go on for this long.
LAST_ANSWERS_S = 1


class Server(uvicorn.Server):
    """A server that ends when a signal has come, as the rest of the program does."""

    def __init__(self, config: uvicorn.Config, signals: StopSignals) -> None:
        super().__init__(config)
        self.signals = signals

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the handlers of `StopSignals` in place."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; asked ten times per second."""
        # Nobody waits for the answers any more.
        self.force_exit = self.signals.requested
        return await super().on_tick(counter) or self.signals.requested


def serve(
    config: Config, port: int, opens_browser: bool, signals: StopSignals, tick: Callable[[int, int], None]
) -> int:
    """Serve the page until a signal comes, and return the exit code.

    Ctrl-C is the usual end of a server, so it is 0. `port` may be 0: then a free one is chosen. `tick` is called while
    the sidecar is made.
    """
    # The port comes first: making the sidecar may take minutes.
    with listening(port) as listener, contextlib.closing(OpenLibrary(config, tick)) as opened:
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        log.info("listening on %s (Ctrl-C stops)", address)
        if opens_browser:
            threading.Thread(target=open_browser, args=(address,), daemon=True).start()
        with contextlib.closing(Desk(config, opened)) as desk:
            serve_on(listener, desk, signals)
    return 0


def serve_on(listener: socket.socket, desk: Desk, signals: StopSignals) -> None:
    """Answer the requests that come to `listener` until a signal comes."""
    # If the sidecar is made again, a thread does it, without a bar.
    desk.opened.tick = lambda *_: signals.check()
    settings = uvicorn.Config(
        OwnPagesOnly(make_app(desk), listener.getsockname()[1]),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=LAST_ANSWERS_S,
    )
    with libraries_to_log():
        Server(settings, signals).run(sockets=[listener])


class DebugLog(logging.Handler):
    """Logs what uvicorn and asyncio say at debug level: a browser that goes away is no news to a user."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        log.debug("%s: %s", record.name, printable(record.getMessage()), exc_info=record.exc_info)


@contextlib.contextmanager
def libraries_to_log() -> Iterator[None]:
    """Send what uvicorn and asyncio log to this program's log, inside the `with` block."""
    handler = DebugLog()
    loggers = [logging.getLogger(name) for name in ("uvicorn", "asyncio")]
    former = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagates in zip(loggers, former, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagates


@contextlib.contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Listen on `port` of this machine alone; raises `UsageError` if it is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            # On Windows, another program could else listen on the same port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # The port is free at once when the page before has ended.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError as error:
            taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
            why = "is taken, or not allowed" if taken else f"cannot be used: {printable(error)}"
            raise UsageError(f"--port {port}: {why}; give another, or leave it out to have a free one chosen") from None
        yield listener


def open_browser(address: str) -> None:
    """Show the page in the user's browser, if there is a screen."""
    has_screen = os.name == "nt" or sys.platform == "darwin"
    if not has_screen and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")):
        # Else a browser of the terminal would take the terminal over.
        log.info("no screen was found: open the address yourself")
        return
    try:
        is_open = webbrowser.open(address)
    except (webbrowser.Error, OSError):
        is_open = False
    if not is_open:
        log.warning("no browser could be opened: open the address yourself")
