"""The sidecar: a copy of what a search reads, in a folder beside the database.

    stems.db.search/
        vectors-….npy    (rows, 512) float32, memory-mapped
        stems-….db       the columns that searches show and filter by, and the full-text index
        card.json        which files are current, and of which state of the database

No row depends on it, and it may be removed at any time. It is made again when the database has changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stem_dataset.database.connection import check_database, open_beside_writers, open_read_only
from stem_dataset.database.schema import SCHEMA_VERSION
from stem_dataset.datatypes import EMBEDDING_SIZE, Float32
from stem_dataset.errors import RunStopped, UsageError
from stem_dataset.files import put_in_place
from stem_dataset.logs import log, printable
from stem_dataset.output_folders import LOCK_NAME, write_readme
from stem_dataset.search.text_index import ENTER_NAMES, REMOVE_NAMES, TEXT_INDEX, names_row
from stem_dataset.signals import TICK_S

FOLDER_SUFFIX = ".search"
SIDECAR_README = """\
What search_dataset_sql.py copied out of the database beside this folder, to answer faster.
You can remove this folder at any time. The next search makes it again.
"""
CARD = "card.json"
# Increase this when the content of the files changes.
RECIPE = 2
STEMS_PER_PAGE = 1_000

# A file system notes the time of a write in steps: Linux in 10 ms at most, FAT in 2 s.
FINE_STEP_S, COARSE_STEP_S = 0.05, 2.0
# A clock of another machine may be wrong by this much.
CLOCK_ERROR_S = 60.0

# How long to wait for another process that reads or writes the sidecar's tables.
LOCKED_TABLES_S = 5.0

SHOWN_COLUMNS = "id category bpm key tags user_rating quality_ok duration_s is_loop quality_issues corrected".split()
TABLES = """
CREATE TABLE stems (
  position      INTEGER PRIMARY KEY,  -- of the vector, from 0
  id            TEXT NOT NULL,
  original_file BLOB NOT NULL,        -- byte for byte as the file system has it
  wav           BLOB,
  folder        TEXT NOT NULL,        -- printable, in lower case, with slashes, also at both ends
  sha256        TEXT NOT NULL,
  model         INTEGER NOT NULL,     -- the place of embedding_model in the card
  category, bpm, key, tags, user_rating, quality_ok, duration_s, is_loop, quality_issues, corrected
);
"""
# Filters read only this index, a fifth the size of the table; a filter by category reads only a part of it.
FILTER_INDEX = "CREATE INDEX stems_filters ON stems (category, bpm, key, is_loop, duration_s, user_rating, quality_ok)"
ENTER_STEM = f"INSERT INTO stems VALUES ({', '.join('?' * (6 + len(SHOWN_COLUMNS)))})"
UPDATE_STEM = f"UPDATE stems SET {', '.join(f'{column} = ?' for column in SHOWN_COLUMNS[1:])} WHERE position = ?"
PAGE_OF_STEMS = f"""
SELECT rowid, id, original_file, path, sha256, embedding_model, clap_embedding FROM stems
WHERE rowid > ? ORDER BY rowid LIMIT {STEMS_PER_PAGE}"""
REFERENCES = """
SELECT embedding_model, hex(reference_vector), min(rowid) FROM provenance WHERE reference_vector IS NOT NULL
GROUP BY embedding_model"""


@dataclass(frozen=True)
class Sidecar:
    """The files of a sidecar, opened.

    folder: where they are
    card: what card.json said
    vectors: (rows, 512), memory-mapped
    models: the names of the rows' models, with the number of rows and the vector of the reference signal (hex or None)
    """

    folder: Path
    card: dict[str, Any]
    vectors: Float32
    connection: sqlite3.Connection
    models: list[tuple[str, int, str | None]]

    def is_current(self, database: Path) -> bool:
        """Return whether another search of `database` would use the same files."""
        card = card_if_current(self.folder, database.resolve())
        return card is not None and card["vectors"] == self.card["vectors"]


def stamp_of(database: Path) -> list[int]:
    """Return numbers that change with every commit to `database`.

    `PRAGMA data_version` compares only what one connection has seen. The counter in the file's header, in WAL mode,
    need not change with a commit. But every commit writes to the file or to its WAL, which changes its time, and moving
    the WAL into the file changes both. An empty WAL counts as none. If the content is the same after all, as after that
    move, the sidecar is made again for nothing.
    """
    # When root opens a WAL, SQLite gives it to the owner of the database, which changes the ctime and nothing else.
    size_bytes, mtime_ns, _, number = _status_of(database.with_name(database.name + "-wal"))
    return [*_status_of(database), size_bytes, mtime_ns, number]


def _status_of(path: Path) -> list[int]:
    """Return size, mtime, ctime and number of a file; zeros if it is empty or missing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return [0] * 4
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino] if status.st_size else [0] * 4


def settled_stamp(database: Path) -> list[int]:
    """Return the stamp, after waiting long enough that any later commit changes it.

    Two commits within one step of the file system's clock may have the same time and leave the same size.
    """
    stamp = stamp_of(database)
    times_ns = [stamp[1], stamp[5]]
    if abs(time.time() - max(times_ns) / 1e9) < CLOCK_ERROR_S:
        is_coarse = all(time_ns % 10**9 == 0 for time_ns in times_ns)
        time.sleep(COARSE_STEP_S if is_coarse else FINE_STEP_S)
    return stamp


@contextlib.contextmanager
def open_sidecar(database: Path, tick: Callable[[int, int], None]) -> Iterator[Sidecar]:
    """Open the sidecar of `database`, and make it first if it is missing or stale.

    `tick` is called with the rows that are done and all rows. Raises `UsageError` without a database of this schema.
    """
    # SQLite keeps the WAL beside the real file, not beside a link.
    database = database.resolve()
    require_current_database(database)
    with _writable_folder(database) as folder:
        sidecar = None
        while sidecar is None:
            sidecar = _opened(folder, _current_card(folder, database, tick))
        try:
            with contextlib.closing(sidecar.connection):
                yield sidecar
        except sqlite3.Error as error:
            raise RunStopped(f"{printable(folder)}: {error}; remove this folder, and search again") from None


def require_current_database(database: Path) -> None:
    """Raise `UsageError` unless a database of this program's schema is at `database`."""
    if not check_database(database):
        raise UsageError(f"there is no database at {printable(database)}: give --database, or fill it first")
    with contextlib.closing(open_read_only(database)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        text = f"has schema {version}, and a search needs {SCHEMA_VERSION}: run prepare_dataset_sql.py on it once"
        raise UsageError(f"{printable(database)}: {text}")


def _current_card(folder: Path, database: Path, tick: Callable[[int, int], None]) -> dict[str, Any]:
    """Return the card of the sidecar, which is made first if need be."""
    card = card_if_current(folder, database)
    if card is None:
        with _lock(folder, tick):
            # Another search may have made it meanwhile.
            card = card_if_current(folder, database) or _make(folder, database, tick)
    return card


def _opened(folder: Path, card: dict[str, Any]) -> Sidecar | None:
    """Open the files of a card; None if another search has just replaced them."""
    try:
        vectors = np.load(folder / card["vectors"], mmap_mode="r").view(np.ndarray)
        connection = _opened_tables(folder / card["stems"])
        connection.execute("PRAGMA query_only = ON")
    except (OSError, ValueError, sqlite3.Error) as error:
        if not all((folder / card[name]).exists() for name in ("vectors", "stems")):
            return None
        raise RunStopped(f"{printable(folder)}: {error}; remove this folder, and search again") from None
    models = [(name, rows, reference) for name, rows, reference in card["models"]]
    return Sidecar(folder, card, vectors, connection, models)


def _opened_tables(path: Path) -> sqlite3.Connection:
    """Open the file of tables, which must be there.

    Not "ro": whoever reads it first after a patch was killed has to undo that patch.
    """
    uri = f"{path.absolute().as_uri()}?mode=rw"
    # The page opens it in one thread and reads it in others, one at a time.
    return sqlite3.connect(uri, uri=True, timeout=LOCKED_TABLES_S, isolation_level=None, check_same_thread=False)


def folder_of(database: Path) -> Path:
    """Return where the sidecar of a database is; `database` is no link."""
    return database.with_name(database.name + FOLDER_SUFFIX)


@contextlib.contextmanager
def _writable_folder(database: Path) -> Iterator[Path]:
    """Make the sidecar's folder; one for this search alone where the database's folder is not writable."""
    folder = folder_of(database)
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        log.warning("%s: cannot be written, so the next search takes as long: %s", printable(folder), error)
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    write_readme(folder, SIDECAR_README)
    yield folder


@contextlib.contextmanager
def _lock(folder: Path, tick: Callable[[int, int], None]) -> Iterator[None]:
    """Let one search at a time make the sidecar.

    The lock's name also keeps the preparer's walk out of the folder.
    """
    import filelock

    lock = filelock.FileLock(folder / LOCK_NAME)
    while not lock.is_locked:
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=TICK_S)
        tick(0, 0)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def lock_if_free(folder: Path, longest_s: float) -> Iterator[bool]:
    """Hold the lock of the sidecar in `folder`, if it is free within `longest_s`; yield whether it is held."""
    import filelock

    with contextlib.ExitStack() as held:
        # The lock would make the folder.
        is_held = folder.is_dir()
        try:
            if is_held:
                held.enter_context(filelock.FileLock(folder / LOCK_NAME).acquire(timeout=longest_s))
        except (OSError, filelock.Timeout):  # the folder cannot be written, or a search makes its copy
            is_held = False
        yield is_held


def card_if_current(folder: Path, database: Path) -> dict[str, Any] | None:
    """Return the card of the sidecar in `folder`; None if it is missing or stale. `database` is no link."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        is_current = card["recipe"] == RECIPE and card["stamp"] == stamp_of(database)
        are_there = all((folder / card[name]).is_file() for name in ("vectors", "stems"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card if is_current and are_there else None


def _make(folder: Path, database: Path, tick: Callable[[int, int], None]) -> dict[str, Any]:
    """Make the sidecar's files, and return its card.

    The files have new names, so a search that uses the former ones is not disturbed.
    """
    token = uuid.uuid4().hex[:12]
    names = {"vectors": f"vectors-{token}.npy", "stems": f"stems-{token}.db"}
    started = time.monotonic()
    # The stamp comes first: a commit after it makes the next search look again.
    stamp = settled_stamp(database)
    try:
        with contextlib.closing(open_beside_writers(database)) as source:
            # All reads see one state of the database.
            source.execute("BEGIN")
            models = _copy(source, folder / names["vectors"], folder / names["stems"], tick)
    except BaseException as error:
        for name in names.values():
            (folder / name).unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            raise RunStopped(f"{printable(database)}: cannot be copied for the search: {error}") from None
        raise
    card = {"recipe": RECIPE, "stamp": stamp, **names, "models": models}
    write_card(folder, card)
    _remove_former(folder, set(names.values()))
    rows = sum(count for _, count, _ in models)
    log.debug("%s: made from %d rows in %.1f s", printable(folder), rows, time.monotonic() - started)
    return card


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Make `card` the current one, also after a power cut. Call it with the lock held."""
    scratch = folder / f"{CARD}.unfinished"
    scratch.write_text(json.dumps(card), encoding="utf-8")
    put_in_place(scratch, folder / CARD)


def patch_stem(tables: Path, columns: Sequence[Any]) -> None:
    """Bring one row of the sidecar's file of tables, with its words, up to date.

    `columns` are the `SHOWN_COLUMNS` of the row. Call it with the lock held. It is one transaction, and it is on the
    disk when this returns. Raises `sqlite3.Error` if the file is held by others for long, or is damaged.
    """
    stem_id, *values = columns
    tags = values[SHOWN_COLUMNS.index("tags") - 1]
    with contextlib.closing(_opened_tables(tables)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        former = "SELECT position, original_file, tags FROM stems WHERE id = ?"
        for position, original_file, former_tags in connection.execute(former, (stem_id,)).fetchall():
            connection.execute(UPDATE_STEM, (*values, position))
            if tags != former_tags:
                text = _text_of(os.fsdecode(original_file))
                # The index keeps no text, so it must be told what it holds.
                connection.execute(REMOVE_NAMES, names_row(position, text, former_tags))
                connection.execute(ENTER_NAMES, names_row(position, text, tags))
        connection.execute("COMMIT")


def _copy(
    source: sqlite3.Connection, vectors: Path, stems: Path, tick: Callable[[int, int], None]
) -> list[tuple[str, int, str | None]]:
    """Write both files, and return the models for the card."""
    rows: int = source.execute("SELECT count(*) FROM stems").fetchone()[0]
    references = {model: reference for model, reference, _ in source.execute(REFERENCES)}
    counts: dict[str, int] = {}
    with open(vectors, "xb") as file, contextlib.closing(sqlite3.connect(stems, isolation_level=None)) as target:
        # If this is interrupted, the file is removed.
        target.execute("PRAGMA journal_mode = OFF")
        target.execute("PRAGMA synchronous = OFF")
        target.execute(TABLES)
        target.execute(TEXT_INDEX)
        target.execute("BEGIN")
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, EMBEDDING_SIZE)}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        position = 0
        for page in _pages(source):
            file.write(b"".join(vector for *_, vector in page))
            for *_, model, _ in page:
                counts[model] = counts.get(model, 0) + 1
            _enter_page(source, target, page, position, list(counts))
            position += len(page)
            tick(position, rows)
        target.execute("CREATE INDEX stems_id ON stems (id)")
        target.execute(FILTER_INDEX)
        target.execute("COMMIT")
    return [(model, count, references.get(model)) for model, count in counts.items()]


def _enter_page(
    source: sqlite3.Connection, target: sqlite3.Connection, page: list[Any], position: int, models: list[str]
) -> None:
    """Enter stems, the first at `position`, with their names."""
    shown = shown_columns(source, [stem_id for _, stem_id, *_ in page])
    stems, names = [], []
    for place, (_, stem_id, original_file, wav, sha256, model, _) in enumerate(page, position):
        columns = shown[stem_id]
        text = _text_of(original_file)
        paths = (os.fsencode(original_file), os.fsencode(wav) if wav else None, _folder_text(os.path.dirname(text)))
        stems.append((place, stem_id, *paths, sha256, models.index(model), *columns))
        names.append(names_row(place, text, columns[SHOWN_COLUMNS.index("tags") - 1]))
    target.executemany(ENTER_STEM, stems)
    target.executemany(ENTER_NAMES, names)


def _pages(source: sqlite3.Connection) -> Iterator[list[Any]]:
    last = 0
    while page := source.execute(PAGE_OF_STEMS, (last,)).fetchall():
        yield page
        last = page[-1][0]


def shown_columns(source: sqlite3.Connection, stem_ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Return `SHOWN_COLUMNS` but for the id, by id, of a page of stems at most."""
    return {row[0]: row[1:] for row in source.execute(shown_query(len(stem_ids)), stem_ids)}


def shown_query(count: int) -> str:
    """Return the query for `SHOWN_COLUMNS` of `count` ids.

    Each id is a value of the query. With a subquery after IN, SQLite would read the whole table for each page.
    """
    return f"SELECT {', '.join(SHOWN_COLUMNS)} FROM library WHERE id IN ({', '.join('?' * count)})"


def _text_of(path: str) -> str:
    """Return a path as valid UTF-8, with the other bytes escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _folder_text(folder: str) -> str:
    slashed = folder.replace("\\", "/") if os.name == "nt" else folder
    return f"/{slashed.strip('/')}/".lower()


def _remove_former(folder: Path, current: set[str]) -> None:
    """Remove the files of former sidecars.

    Windows refuses for those in use; a later search removes them.
    """
    for path in (*folder.glob("vectors-*.npy"), *folder.glob("stems-*.db*")):
        if path.name not in current:
            with contextlib.suppress(OSError):
                path.unlink()
