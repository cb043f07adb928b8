"""Print what was found, and write it to files: a table, JSON, CSV, M3U, or paths."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stem_dataset.datatypes import UNKNOWN_CATEGORY
from stem_dataset.files import put_in_place
from stem_dataset.logs import log, printable
from stem_dataset.search.library import Hit

LEAST_WIDTH = 80
BAR_CELLS = 8
EIGHTHS = " ▏▎▍▌▋▊▉"
# The widths of rank, bar, category, bpm, key and seconds. Name and folder share the rest of the line.
RANK_CELLS, CATEGORY_CELLS, BPM_CELLS, KEY_CELLS, SECONDS_CELLS = 3, 10, 5, 3, 7
GAPS = 7
COLUMNS = (
    "rank cosine id original_file wav file_name folder category bpm key seconds is_loop tags user_rating quality_ok"
).split()

# A pair of near duplicates: the cosine and the two stems.
HitPair = tuple[float, Hit, Hit]


def terminal_width() -> int:
    """Return the width of the terminal in cells; at least 80."""
    return max(LEAST_WIDTH, shutil.get_terminal_size((LEAST_WIDTH, 24)).columns)


def table(hits: Sequence[Hit], width: int) -> list[str]:
    """Return the lines of a table that is `width` cells wide. What is missing is empty."""
    rank_cells = max(RANK_CELLS, len(str(len(hits))))
    left = width - (rank_cells + BAR_CELLS + CATEGORY_CELLS + BPM_CELLS + KEY_CELLS + SECONDS_CELLS + GAPS)
    name_cells = left * 3 // 5
    folder_cells = left - name_cells

    def line(rank: str, bar: str, name: str, folder: str, category: str, bpm: str, key: str, seconds: str) -> str:
        cells = (
            rank.rjust(rank_cells),
            padded(bar, BAR_CELLS),
            padded(cut_end(name, name_cells), name_cells),
            padded(cut_start(folder, folder_cells), folder_cells),
            padded(cut_end(category, CATEGORY_CELLS), CATEGORY_CELLS),
            bpm.rjust(BPM_CELLS),
            padded(cut_end(key, KEY_CELLS), KEY_CELLS),
            seconds.rjust(SECONDS_CELLS),
        )
        return " ".join(cells).rstrip()

    lines = [line("", "cosine", "name", "folder", "category", "bpm", "key", "seconds")]
    for hit in hits:
        category = printable(known_category(hit.category) or "")
        bpm = "" if hit.bpm is None else f"{hit.bpm:.1f}"
        texts = (printable(hit.file_name), printable(hit.folder), category, bpm, printable(hit.key or ""))
        lines.append(line(str(hit.rank), bar_of(hit.cosine), *texts, f"{hit.seconds:.2f}"))
    return lines


def bar_of(cosine: float | None) -> str:
    """Return a bar that is full at a cosine of 1, and empty at 0 and below."""
    eighths = round(max(0.0, min(1.0, cosine or 0.0)) * BAR_CELLS * 8)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def pair_lines(pairs: Sequence[HitPair], width: int) -> list[str]:
    """Return two lines for each pair, with the lengths; copies of one file are marked."""
    lines = []
    for cosine, *pair in pairs:
        is_same = pair[0].sha256 == pair[1].sha256
        for start, hit in zip((f"{cosine:.4f}", " same " if is_same else " " * 6), pair, strict=True):
            path_cells = width - len(start) - SECONDS_CELLS - 4
            path = cut_start(printable(hit.original_file), path_cells)
            lines.append(f"{start} {f'{hit.seconds:.2f}'.rjust(SECONDS_CELLS)} s {path}")
    return lines


def cells(text: str) -> int:
    """Return how many cells of a terminal `text` takes."""
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, width: int) -> str:
    """Return `text` with blanks up to `width` cells."""
    return text + " " * (width - cells(text))


def cut_end(text: str, width: int) -> str:
    """Return the beginning of `text` with "…", if it takes more than `width` cells."""
    if cells(text) <= width:
        return text
    while cells(text) > width - 1:
        text = text[:-1]
    return text + "…"


def cut_start(text: str, width: int) -> str:
    """Return the end of `text` after "…", if it takes more than `width` cells."""
    if cells(text) <= width:
        return text
    while cells(text) > width - 1:
        text = text[1:]
    return "…" + text


def values_of(hit: Hit) -> dict[str, Any]:
    """Return a stem's columns for JSON and CSV, as valid UTF-8; what is missing is None."""
    values = {name: getattr(hit, name) for name in COLUMNS}
    for name in ("original_file", "wav", "file_name", "folder"):
        values[name] = None if values[name] is None else valid_text(values[name])
    return {**values, "category": known_category(hit.category), "tags": list(hit.tags)}


def known_category(category: str) -> str | None:
    """Return a category; None for the one that stands for none."""
    return None if category == UNKNOWN_CATEGORY else category


def valid_text(path: str) -> str:
    """Return a path as valid UTF-8, with the other bytes escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def json_of(hits: Sequence[Hit]) -> str:
    """Return a JSON array with an object per stem."""
    return json.dumps([values_of(hit) for hit in hits], ensure_ascii=False, indent=1)


def json_of_pairs(pairs: Sequence[HitPair]) -> str:
    """Return a JSON array with an object per pair."""
    entries = [
        {"cosine": cosine, "same_bytes": first.sha256 == second.sha256, "stems": [values_of(first), values_of(second)]}
        for cosine, first, second in pairs
    ]
    return json.dumps(entries, ensure_ascii=False, indent=1)


def csv_of(rows: Iterable[dict[str, Any]], names: Sequence[str]) -> bytes:
    """Return CSV in UTF-8 with a line of names; what is missing is empty, and tags are separated by a semicolon."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    for row in rows:
        flat = {name: "; ".join(value) if isinstance(value, list) else value for name, value in row.items()}
        writer.writerow({name: int(value) if isinstance(value, bool) else value for name, value in flat.items()})
    return text.getvalue().encode("utf-8")


def rows_of_pairs(pairs: Sequence[HitPair]) -> Iterable[dict[str, Any]]:
    """Yield two rows of CSV for each pair, with its number and its cosine."""
    for number, (cosine, *pair) in enumerate(pairs, 1):
        for hit in pair:
            yield {"pair": number, **values_of(hit), "cosine": cosine}


def m3u_of(hits: Sequence[Hit]) -> bytes:
    """Return an extended M3U playlist of the originals, byte for byte as the file system has them."""
    lines = [b"#EXTM3U"]
    for hit in hits:
        path = os.fsencode(hit.original_file)
        if b"\n" in path or b"\r" in path:
            log.warning("%s: left out of the playlist, which cannot have such a name", printable(hit.original_file))
            continue
        title = printable(hit.file_name).encode("utf-8", "backslashreplace")
        lines += [b"#EXTINF:%d,%s" % (round(hit.seconds), title), path]
    return b"\n".join(lines) + b"\n"


def paths_of(hits: Sequence[Hit], end: bytes) -> bytes:
    """Return the paths of the originals, each followed by `end`."""
    return b"".join(os.fsencode(hit.original_file) + end for hit in hits)


def print_bytes(content: bytes) -> None:
    """Write to stdout; a closed pipe, as of `| head`, is no error."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Python flushes stdout at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises OSError."""
    scratch = path.with_name(f".{path.name}.unfinished")
    try:
        scratch.write_bytes(content)
        put_in_place(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
