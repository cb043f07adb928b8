"""What the page is told of a stem, and the files it may download of a result."""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from stem_dataset.logs import printable
from stem_dataset.page.audio import source_of
from stem_dataset.search.library import Hit, texts_of
from stem_dataset.search.output import COLUMNS, csv_of, known_category, m3u_of, valid_text, values_of

# A page of an export.
EXPORTED_ROWS = 2_000
EXPORT_TYPES = {"m3u": "audio/x-mpegurl", "csv": "text/csv; charset=utf-8"}


def row_of(hit: Hit, now: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a stem as JSON; `now` is what the database says at this moment, None if the stem is gone."""
    bpm, key, category, tags = hit.bpm, hit.key, hit.category, hit.tags
    rating, is_ok, is_loop = hit.user_rating, hit.quality_ok, hit.is_loop
    if now is not None:
        bpm, key, category, tags = now["bpm"], now["key"], now["category"], texts_of(now["tags"])
        rating, is_ok = now["user_rating"], bool(now["quality_ok"])
        is_loop = None if now["is_loop"] is None else bool(now["is_loop"])
    return {
        "rank": hit.rank,
        "cosine": hit.cosine,
        "id": hit.id,
        "name": shown(hit.file_name),
        "folder": shown(hit.folder),
        "path": shown(hit.original_file),
        "category": known_category(category),
        "bpm": finite(bpm),
        "key": key,
        "seconds": finite(hit.seconds),
        "is_loop": is_loop,
        "tags": list(tags),
        "rating": rating,
        "ok": is_ok,
        "quality": list(texts_of(now["quality_issues"]) if now is not None else hit.quality_issues),
        "corrected": (now["corrected"] or "").split() if now is not None else list(hit.corrected),
        "audio": source_of(hit.original_file, hit.wav),
    }


def shown(path: str) -> str:
    """Return a path as printable text."""
    return printable(valid_text(path))


def finite(number: float | None) -> float | None:
    """Return a number that JSON has; None for infinity, which a correction may be."""
    return number if number is not None and math.isfinite(number) else None


def file_name_of(path: str) -> str:
    """Return the name of a file for a download."""
    return shown(os.path.basename(path))


def exported(hits: Sequence[Hit], file_format: str, is_first: bool) -> bytes:
    """Return a part of a playlist or a table; the first has the line at the top."""
    content = m3u_of(hits) if file_format == "m3u" else csv_of(map(values_of, hits), COLUMNS)
    return content if is_first else content[content.index(b"\n") + 1 :]


async def export_parts(
    rows: int, file_format: str, hits_from: Callable[[int, int], Awaitable[Sequence[Hit]]]
) -> AsyncIterator[bytes]:
    """Yield a playlist or a table of all rows, part by part."""
    for start in range(0, max(rows, 1), EXPORTED_ROWS):
        yield exported(await hits_from(start, EXPORTED_ROWS), file_format, start == 0)


def quarantined_row(original: str, error: str, when: str) -> dict[str, Any]:
    """Return a quarantined file as JSON; `error` is 'Type: message'."""
    reason, _, text = error.partition(": ")
    return {
        "name": file_name_of(original),
        "original_path": shown(original),
        "reason": printable(reason),
        "error": printable(text or reason),
        "when": when,
    }


def json_bytes(value: Any) -> bytes:
    """Return JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
