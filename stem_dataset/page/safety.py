"""Which requests the page answers: those of its own pages, and no others.

Any web page that a browser shows may send requests to 127.0.0.1. So three things are checked.

- `Host` must be the page's own address. A name of somebody else's that resolves to 127.0.0.1 (DNS rebinding) is not.
- A request that may change something must come from the page itself, which `Origin` says, and be JSON, which no form of
  another site can send.
- A request that another site makes a browser send, as `Sec-Fetch-Site` or `Origin` say, gets nothing, not even audio. A
  person may follow a link to the page.

Every answer forbids the browser to run, load or send anything that does not belong to the page.
"""

from __future__ import annotations

import json
import logging
from collections.abc import MutableMapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stem_dataset.logs import log, printable

HOST = "127.0.0.1"
SHOWN_REFUSALS = 10
READING_METHODS = ("GET", "HEAD")
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self'",
        "connect-src 'self'",
        "font-src 'self'",
        "frame-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
# plotly.js draws in a frame of its own, since its WebGL makes functions out of texts. It sets styles, and makes images
# and a worker out of its own text. It can ask nothing of anyone, and the page gives it numbers, not names.
MAP_FRAME = "/static/map.html"
MAP_FRAME_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src data: blob:",
        "worker-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'self'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class OwnPagesOnly:
    """Lets the requests of the page's own pages pass to `app`, and answers all others with 403."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        names = (HOST, "localhost")
        # Browsers leave out the port of HTTP.
        self.refused = 0
        self.hosts = {f"{name}:{port}" for name in names} | ({*names} if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_headers(message, scope["path"])
            await send(message)

        why = reason_to_refuse(scope, self.hosts)
        if why is None:
            await self.app(scope, receive, send_guarded)
            return
        self._log(why)
        body = json.dumps({"error": why}).encode()
        start = {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"application/json")]}
        await send_guarded(start)
        await send_guarded({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})

    def _log(self, why: str) -> None:
        """Log the first refused requests: another page may send them by the thousand."""
        self.refused += 1
        level = logging.WARNING if self.refused <= SHOWN_REFUSALS else logging.DEBUG
        end = "; others like it are not shown" if self.refused == SHOWN_REFUSALS else ""
        log.log(level, "a request was refused: %s%s", printable(why), end)


def add_headers(message: MutableMapping[str, object], path: str) -> None:
    """Add `HEADERS` to the start of the answer from `path`; what is not said to be cacheable is not kept."""
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers[name] = value
    if path == MAP_FRAME:
        headers["Content-Security-Policy"] = MAP_FRAME_POLICY
    headers.setdefault("Cache-Control", "no-store")


def reason_to_refuse(scope: Scope, hosts: set[str]) -> str | None:
    """Return why a request gets no answer; None if it gets one."""
    headers = Headers(scope=scope)
    given = headers.getlist("host")
    if len(given) != 1 or given[0].lower() not in hosts:
        return f"the page's address is http://{min(hosts)}/, not {', '.join(given) or 'empty'}"
    # The same host by its other name is another origin: another program may answer there.
    origins = headers.getlist("origin")
    is_own = [origin.lower() for origin in origins] == [f"http://{given[0].lower()}"]
    if scope["method"] not in READING_METHODS:
        if not is_own:
            return f"only the page itself may change something, not {', '.join(origins) or 'a page without Origin'}"
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return "what is sent must be application/json"
        return None
    site = headers.get("sec-fetch-site", "same-origin").lower()
    is_foreign = bool(origins and not is_own) or site not in ("same-origin", "none")
    if is_foreign and not _follows_a_link(scope, headers):
        return f"another web page has asked for {scope['path']}"
    return None


def _follows_a_link(scope: Scope, headers: Headers) -> bool:
    """Whether a person goes to the page by a link, in a tab of its own."""
    how = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return scope["path"] == "/" and how == ("navigate", "document") and "origin" not in headers
