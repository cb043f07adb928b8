"""Find the streams in a chained Ogg file, and detect a cut page.

A module of its own, because libsndfile reads only the first stream of a chain, and reports whole files as cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from stem_dataset.audio.source import WatchedFile

HEADER_BYTES = 27
MAX_PAGE_BYTES = HEADER_BYTES + 255 + 255 * 255
RESYNC_BYTES = 2**20  # searched for a page after damage
BEGINS = 0x02  # flags a stream's first page


@dataclass(frozen=True, slots=True)
class OggPages:
    """The extent of an Ogg file and its links, from its page headers."""

    starts: tuple[int, ...]  # the start of each link
    stop: int  # the end of the last page
    is_cut: bool  # the file ends within a page


def read_pages(watched: WatchedFile, start: int, stop: int) -> OggPages:
    """Go from page to page in [start, stop), reading only the headers."""
    starts: list[int] = []
    position, end = start, start
    # Whether the page before was a stream's first. Parallel streams begin with one such page each, and form one link.
    begun = False
    while position < stop:
        header = watched.read_at(position, min(HEADER_BYTES + 255, stop - position))
        size = page_bytes(header)
        if size is None:
            if b"OggS".startswith(header[:4]) or (header[:4] == b"OggS" and stop - position < HEADER_BYTES + 255):
                return OggPages(tuple(starts), stop, is_cut=True)  # it ends within a header
            following = watched.read_at(position + 1, min(RESYNC_BYTES, stop - position - 1)).find(b"OggS")
            if following < 0:
                break
            position += 1 + following
            continue
        if header[5] & BEGINS and not begun:
            starts.append(position)
        begun = bool(header[5] & BEGINS)
        if position + size > stop:
            return OggPages(tuple(starts), stop, is_cut=True)
        position += size
        end = position
    return OggPages(tuple(starts), end, is_cut=False)


def page_bytes(header: bytes) -> int | None:
    """Return the size of the page with this header, or None if invalid.

    A header has 27 bytes and a table of segments, and must be complete.
    """
    if len(header) < HEADER_BYTES or header[:4] != b"OggS" or header[4] != 0:
        return None
    segments = header[26]
    table = header[HEADER_BYTES : HEADER_BYTES + segments]
    return HEADER_BYTES + segments + sum(table) if len(table) == segments else None
