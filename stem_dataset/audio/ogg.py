"""The pages of an Ogg file: where each stream of a chain begins, and whether the last page is cut.

A module of its own, because libsndfile reads only the first stream of a chain, and calls whole files cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from stem_dataset.audio.source import WatchedFile

HEADER_BYTES = 27
MAX_PAGE_BYTES = HEADER_BYTES + 255 + 255 * 255
RESYNC_BYTES = 2**20  # how far to look for the next page where one is damaged
BEGINS = 0x02  # the bit of a stream's first page


@dataclass(frozen=True, slots=True)
class OggPages:
    """What the headers of all pages say."""

    starts: tuple[int, ...]  # of the first page of each link of the chain
    stop: int  # behind the last page
    is_cut: bool  # the file ends within a page


def read_pages(watched: WatchedFile, start: int, stop: int) -> OggPages:
    """Walk from page to page in [start, stop), reading the headers alone."""
    starts: list[int] = []
    position, end = start, start
    begun = False  # the page before was a first one: several streams side by side begin with one each
    while position < stop:
        header = watched.read_at(position, min(HEADER_BYTES + 255, stop - position))
        size = page_bytes(header)
        if size is None:
            if b"OggS".startswith(header[:4]) or (header[:4] == b"OggS" and stop - position < HEADER_BYTES + 255):
                return OggPages(tuple(starts), stop, is_cut=True)  # within the header
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
    """Return the size of the page with that header (27 bytes and its table), or None if it is none or incomplete."""
    if len(header) < HEADER_BYTES or header[:4] != b"OggS" or header[4] != 0:
        return None
    segments = header[26]
    table = header[HEADER_BYTES : HEADER_BYTES + segments]
    return HEADER_BYTES + segments + sum(table) if len(table) == segments else None
