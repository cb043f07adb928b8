"""Runs first in every Python process of a watched run, the workers too: notes in $TEST_WATCH each import of what a warm
start must do without, and each try to reach the network, which it refuses."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

HEAVY = {"torch", "transformers", "laion_clap", "huggingface_hub"}
NETWORK = {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}


def note(kind: str, what: object) -> None:
    with open(os.environ["TEST_WATCH"], "a", encoding="utf-8") as notes:
        notes.write(f"{kind} {what}\n")


class ImportWatch:
    """Notes, and finds nothing."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name in HEAVY:
            note("import", name)


def watch_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in NETWORK and getattr(arguments[0], "family", None) != getattr(socket, "AF_UNIX", "none here"):
        note("network", f"{event} {arguments}")
        raise OSError(f"{event}: refused by the tests")


sys.meta_path.insert(0, ImportWatch)
sys.addaudithook(watch_network)
