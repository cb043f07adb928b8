"""A small stand-in for the Hugging Face hub, on this machine, with faults that tests switch on.

    with HubServer({("facebook/bart-base", "vocab.json"): b"{}"}) as hub:
        environment = os.environ | hub.environment(tmp_path)      # for the process that runs huggingface_hub
        ...
        assert hub.requests[-1].method == "GET"

It answers what `huggingface_hub.hf_hub_download` asks (read from 2.4): `HEAD` and `GET` of
`/{repository}/resolve/{revision}/{filename}`, whole or from a byte on, and `GET /api/agent-harnesses`. Any
revision is served: 40 hex digits are their own commit, every other name is a branch at `COMMIT`.

Faults: `cut` (the connection ends half way), `flip_a_byte` (right length and ETag, wrong content),
`slow_down`, `refuse` (503 to everything).
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34  # where every branch points

File = tuple[str, str]
"""(repository, filename), as hf_hub_download takes them."""

RESOLVE = re.compile(r"/(?P<repository>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<filename>.+)")
COMMIT_HASH = re.compile(r"[0-9a-f]{40}")
FROM_BYTE = re.compile(r"bytes=(\d+)-")  # the only form that huggingface_hub sends
PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class Request:
    """One line of the log; `range` is the header's text, such as `bytes=10485760-`, or None."""

    method: str
    path: str
    range: str | None


class HubServer:
    """Serves `files` on 127.0.0.1 from `__enter__` to `__exit__`, and logs every request in `.requests`."""

    def __init__(self, files: Mapping[File, bytes]) -> None:
        self.files = dict(files)
        self.requests: list[Request] = []
        self.cuts_left: dict[File, int] = {}
        self.flipped: set[File] = set()
        self.bytes_per_s: float | None = None
        self.refusing = False
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """What makes huggingface_hub use this server and write to `home` alone, if set before its import."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # hf-xet fetches by another protocol, from other servers
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    # faults

    def cut(self, repository: str, filename: str, times: int = 1) -> None:
        """End the next `times` GETs of a file in the middle of what was asked for, then serve it properly.

        The client keeps whole pieces of 10 MiB only; with less before the cut it starts again from 0.
        """
        self.cuts_left[repository, filename] = times

    def flip_a_byte(self, repository: str, filename: str) -> None:
        """Serve a file with its middle byte inverted, under the ETag of the right content."""
        self.flipped.add((repository, filename))

    def slow_down(self, bytes_per_s: float) -> None:
        """Serve no body faster than this, so that a client can be killed half way."""
        self.bytes_per_s = bytes_per_s

    def refuse(self, refusing: bool = True) -> None:
        """Answer 503 to everything, until `refuse(False)`."""
        self.refusing = refusing

    # what the handler asks

    def body(self, file: File) -> bytes:
        """What is sent for a file: its content, or its content with the fault."""
        content = self.files[file]
        if file not in self.flipped:
            return content
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]

    def take_cut(self, file: File) -> bool:
        """Whether this GET is one to cut; uses it up."""
        with self._lock:
            left = self.cuts_left.get(file, 0)
            self.cuts_left[file] = max(left - 1, 0)
        return left > 0

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()  # ends slow bodies
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"  # with 1.0 a body that ends early looks complete to some clients

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        """Log the request and send what it asks for, or the fault."""
        self.hub.requests.append(Request(self.command, self.path, self.headers["Range"]))
        if self.hub.refusing:
            self.send(503, {})
        elif self.path == "/api/agent-harnesses":
            self.send(200, {"Content-Type": "application/json"}, b"{}")
        else:
            self.answer_file(RESOLVE.fullmatch(unquote(self.path)))

    def answer_file(self, asked: re.Match[str] | None) -> None:
        if asked is None or (asked["repository"], asked["filename"]) not in self.hub.files:
            self.send(404, {"X-Error-Code": "EntryNotFound"})
            return
        file = (asked["repository"], asked["filename"])
        headers = {
            "ETag": f'"{hashlib.sha256(self.hub.files[file]).hexdigest()}"',
            "X-Repo-Commit": asked["revision"] if COMMIT_HASH.fullmatch(asked["revision"]) else COMMIT,
            "Accept-Ranges": "bytes",
        }
        body = self.hub.body(file)
        is_cut = self.command == "GET" and self.hub.take_cut(file)
        start = FROM_BYTE.fullmatch(self.headers["Range"] or "")
        if start is None:
            self.send(200, headers, body, is_cut)
        else:
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            self.send(206, headers, body[first:], is_cut)

    def send(self, status: int, headers: Mapping[str, str], body: bytes = b"", is_cut: bool = False) -> None:
        """Send the head, and for a GET the body; a cut one promises all of it and stops half way."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.send_body(body[: len(body) // 2] if is_cut else body)
        if is_cut:
            self.close_connection = True

    def send_body(self, body: bytes) -> None:
        """Send `body` in pieces, at the set speed, until the server closes or the client is gone."""
        try:
            for start in range(0, len(body), PIECE_BYTES):
                self.wfile.write(body[start : start + PIECE_BYTES])
                if self.hub.bytes_per_s and self.hub.closing.wait(PIECE_BYTES / self.hub.bytes_per_s):
                    break
        except ConnectionError:  # a test killed the client
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to stderr: `HubServer.requests` is the log."""
