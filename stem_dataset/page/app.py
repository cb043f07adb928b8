"""What each address of the page answers.

Nothing here blocks the page: what reads files or computes runs in threads. One thread at a time uses the sidecar, and
one at a time makes vectors. Playing audio needs neither.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from stem_dataset.errors import PrepareError, UsageError, with_remedy
from stem_dataset.logs import log, printable
from stem_dataset.page.audio import FileGone, ServedFile, file_to_play, served
from stem_dataset.page.desk import Desk
from stem_dataset.page.opened import Outdated
from stem_dataset.page.questions import object_of, parsed, positions_of, question_of, rating_given
from stem_dataset.page.rows import EXPORT_TYPES, export_parts, file_name_of, json_bytes, quarantined_row
from stem_dataset.page.threads import in_thread
from stem_dataset.search.library import Hit
from stem_dataset.search.owner_changes import DatabaseLocked

STATIC = Path(__file__).with_name("static")
# Not by `mimetypes`: Windows may call JavaScript plain text, which no browser then runs.
STATIC_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".woff2": "font/woff2",
}
MOST_ROWS = 1_000
# A selection of a million stems by id.
MOST_BODY_BYTES = 32 * 2**20

Endpoint = Callable[[Request], Awaitable[Response]]


def json_response(value: Any, status: int = 200) -> Response:
    """Return an answer in JSON."""
    return Response(json_bytes(value), status, media_type="application/json")


def error_response(status: int, text: str) -> Response:
    """Return a sentence for the user."""
    return json_response({"error": text}, status)


def answering(endpoint: Endpoint) -> Endpoint:
    """Turn what an endpoint raises into an answer."""

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (HTTPException, ClientDisconnect):
            raise
        except Exception as error:
            status, text, level = reported(error)
            log.log(level, "%s: %s", request.url.path, printable(text), exc_info=level == logging.CRITICAL)
            return error_response(status, text)

    return answer


def reported(error: Exception) -> tuple[int, str, int]:
    """Return the status, the text and the level in the log of an error."""
    if isinstance(error, UsageError):
        return 400, str(error), logging.DEBUG
    if isinstance(error, FileGone):
        return 404, str(error), logging.WARNING
    if isinstance(error, Outdated):
        return 410, str(error), logging.DEBUG
    if isinstance(error, DatabaseLocked):
        return 409, str(error), logging.WARNING
    if isinstance(error, PrepareError):
        return 500, str(error), logging.ERROR
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return 409, "another program holds the database: try again", logging.WARNING
    if isinstance(error, (sqlite3.Error, OSError, MemoryError)):
        return 500, with_remedy(error), logging.ERROR
    return 500, "a fault of this program, not of your files; the console has more", logging.CRITICAL


async def body_of(request: Request) -> bytes:
    """Return what was sent; raises `UsageError` for too much."""
    parts, size_bytes = [], 0
    async for part in request.stream():
        size_bytes += len(part)
        if size_bytes > MOST_BODY_BYTES:
            raise UsageError(f"more than {MOST_BODY_BYTES} bytes were sent")
        parts.append(part)
    return b"".join(parts)


def number_of(request: Request, name: str, default: int, most: int = 2**31) -> int:
    """Return a whole number in the address, at most `most`; raises `UsageError` for anything else."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise UsageError(f"{name}: {printable(text)}: give a whole number")
    return min(int(text), most)


def file_response(file: ServedFile, **options: Any) -> Response:
    """Return a file; the browser may keep it, and asks whether it has changed."""
    headers = {"Cache-Control": "no-cache"}
    return FileResponse(file.path, headers=headers, media_type=file.media_type, stat_result=file.status, **options)


class Pages:
    """The endpoints."""

    def __init__(self, desk: Desk, static: Path = STATIC) -> None:
        self.desk = desk
        self.static = static

    def routes(self) -> list[Route]:
        """Return what answers which address."""
        stem = "/api/stem/{stem_id}"
        table: list[tuple[str, str, Endpoint]] = [
            ("GET", "/", self.page),
            ("GET", "/static/{name}", self.static_file),
            ("GET", "/plotly.js", self.plotly),
            ("GET", "/api/library", self.library),
            ("POST", "/api/search", self.search),
            ("GET", "/api/rows", self.rows),
            ("GET", "/api/export", self.export),
            ("GET", "/api/result/positions", self.positions),
            ("GET", stem, self.stem),
            ("PUT", f"{stem}/rating", self.rate),
            ("PUT", f"{stem}/correction", self.correct),
            ("GET", "/api/waveform/{stem_id}", self.waveform),
            ("GET", "/audio/{stem_id}", self.audio),
            ("GET", "/file/{stem_id}", self.original),
            ("GET", "/api/quarantine", self.quarantine),
            ("GET", "/api/map", self.map),
            ("POST", "/api/map", self.start_map),
            ("GET", "/api/map/points", self.map_points),
            ("GET", "/api/map/categories", self.map_categories),
            ("GET", "/api/map/ids", self.map_ids),
            ("POST", "/api/ids", self.ids),
        ]
        return [Route(path, answering(endpoint), methods=[method]) for method, path, endpoint in table]

    # -- the page itself ----------------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """The page."""
        return self._static("page.html")

    async def static_file(self, request: Request) -> Response:
        """A file that the page needs."""
        return self._static(request.path_params["name"])

    def _static(self, name: str) -> Response:
        # Only what is listed, so a name can lead nowhere else.
        files = {path.name: path for path in self.static.glob("*") if path.suffix in STATIC_TYPES}
        if name not in files:
            raise FileGone(f"{printable(name)}: the page has no such file")
        path = files[name]
        return file_response(ServedFile(str(path), STATIC_TYPES[path.suffix], path.stat()))

    async def plotly(self, request: Request) -> Response:
        """The library that draws the map and the histograms, from its wheel."""
        # Importing plotly would take a second.
        package = importlib.util.find_spec("plotly")
        for folder in package.submodule_search_locations or () if package else ():
            path = Path(folder) / "package_data" / "plotly.min.js"
            if path.is_file():
                return file_response(ServedFile(str(path), STATIC_TYPES[".js"], path.stat()))
        raise FileGone("plotly.js is missing: install what requirements.txt pins")

    # -- finding ------------------------------------------------------------------------------------------------------

    async def library(self, request: Request) -> Response:
        """What there is to search."""
        return json_response(await in_thread(self.desk.library))

    async def search(self, request: Request) -> Response:
        """Search, and keep the result."""
        question = question_of(await body_of(request))
        return json_response(await in_thread(self.desk.search, question))

    async def rows(self, request: Request) -> Response:
        """A part of a result."""
        token = request.query_params.get("result", "")
        start, count = number_of(request, "from", 0), number_of(request, "count", 200, MOST_ROWS)
        return json_response({"rows": await in_thread(self.desk.rows, token, start, count)})

    async def positions(self, request: Request) -> Response:
        """The positions of all rows of a result, to show them on the map."""
        result = self.desk.results.get(request.query_params.get("result", ""))
        return Response(result.ordered.astype("<u4").tobytes(), media_type="application/octet-stream")

    async def export(self, request: Request) -> Response:
        """All rows of a result as a playlist or a table."""
        file_format = request.query_params.get("format", "")
        if file_format not in EXPORT_TYPES:
            raise UsageError(f"format: give one of {', '.join(EXPORT_TYPES)}")
        token = request.query_params.get("result", "")
        # Of a former state, there is an error instead of half a file.
        await in_thread(self.desk.hits, token, 0, 0)
        result = self.desk.results.get(token)

        async def hits_from(start: int, count: int) -> list[Hit]:
            return await in_thread(self.desk.hits, token, start, count)

        parts = export_parts(len(result.ordered), file_format, hits_from)
        headers = {"Content-Disposition": f'attachment; filename="stems.{file_format}"'}
        return StreamingResponse(parts, headers=headers, media_type=EXPORT_TYPES[file_format])

    # -- one stem -----------------------------------------------------------------------------------------------------

    async def stem(self, request: Request) -> Response:
        """What is known of a stem."""
        return json_response(await in_thread(self.desk.stem, request.path_params["stem_id"]))

    async def rate(self, request: Request) -> Response:
        """Set or remove a rating."""
        given = object_of(parsed(await body_of(request)))
        if given.keys() != {"rating"}:
            raise UsageError('expected {"rating": 0 to 5, or null}')
        rating = None if given["rating"] is None else rating_given("rating", given["rating"])
        return json_response(await in_thread(self.desk.rate, request.path_params["stem_id"], rating))

    async def correct(self, request: Request) -> Response:
        """Set or remove a correction."""
        given = object_of(parsed(await body_of(request)))
        if given.keys() != {"column", "value"}:
            raise UsageError('expected {"column": ..., "value": ... or null}')
        column, value = given["column"], given["value"]
        if not isinstance(column, str):
            raise UsageError("column: expected text")
        return json_response(await in_thread(self.desk.correct, request.path_params["stem_id"], column, value))

    async def waveform(self, request: Request) -> Response:
        """The shape of a stem."""
        return json_response(await in_thread(self.desk.waveform, request.path_params["stem_id"]))

    async def audio(self, request: Request) -> Response:
        """The sound of a stem, whole or a range of its bytes."""
        wants_original = request.query_params.get("original", "0") not in ("0", "")
        paths = await in_thread(self.desk.paths_of, request.path_params["stem_id"])
        return file_response(await in_thread(file_to_play, paths, self.desk.config, wants_original))

    async def original(self, request: Request) -> Response:
        """The original, to save it or to drag it to another program."""
        paths = await in_thread(self.desk.paths_of, request.path_params["stem_id"])
        file = await in_thread(served, paths.original)
        return file_response(file, filename=file_name_of(paths.original))

    async def quarantine(self, request: Request) -> Response:
        """The files that were broken."""
        start, count = number_of(request, "from", 0), number_of(request, "count", 200, MOST_ROWS)
        rows, total = await in_thread(self.desk.stored.quarantined, start, count)
        return json_response({"rows": [quarantined_row(*row) for row in rows], "total": total})

    # -- the map ------------------------------------------------------------------------------------------------------

    async def map(self, request: Request) -> Response:
        """Whether there is a map."""
        return json_response(await in_thread(self.desk.map.standing))

    async def start_map(self, request: Request) -> Response:
        """Compute the map, if there is none."""
        return json_response(await in_thread(self.desk.map.start))

    async def map_points(self, request: Request) -> Response:
        """Two coordinates for each position."""
        points = await in_thread(self.desk.map.points)
        return Response(points.astype("<f4").tobytes(), media_type="application/octet-stream")

    async def map_categories(self, request: Request) -> Response:
        """A category for each position."""
        codes = await in_thread(self.desk.map.categories)
        return Response(codes.tobytes(), media_type="application/octet-stream")

    async def map_ids(self, request: Request) -> Response:
        """The ids at some positions in a row."""
        start, count = number_of(request, "from", 0), number_of(request, "count", 200, MOST_ROWS)
        return json_response({"ids": await in_thread(self.desk.ids, range(start, start + count))})

    async def ids(self, request: Request) -> Response:
        """The ids at any positions."""
        given = object_of(parsed(await body_of(request)))
        positions = positions_of(given.get("positions"))
        return json_response({"ids": await in_thread(self.desk.ids, positions)})


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer a request for an address that is not there."""
    assert isinstance(error, HTTPException)
    text = {404: "there is no such page", 405: "this address does not answer that"}.get(error.status_code, error.detail)
    return error_response(error.status_code, text)


def make_app(desk: Desk, static: Path = STATIC) -> Starlette:
    """Return the page's application, which is not yet safe: see `safety.OwnPagesOnly`."""
    return Starlette(routes=Pages(desk, static).routes(), exception_handlers={HTTPException: on_http_error})
