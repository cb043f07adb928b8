"""The map: all stems in two dimensions, so that what sounds alike lies together.

    stems.db.search/
        map.npz     the place of each row, and how it was computed

At most 50,000 stems, chosen at random, are laid out by UMAP. The others are placed amid their neighbours among those.
Stems that are added later are placed in the same way, and the others stay where they are. All are laid out anew if the
model is another one, if more than half of the rows have no place, or if more than half of the stems that were laid out
are gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stem_dataset.datatypes import Float32
from stem_dataset.errors import RunStopped, with_remedy
from stem_dataset.files import put_in_place
from stem_dataset.logs import log, printable
from stem_dataset.search.library import Library
from stem_dataset.search.rank import Positions
from stem_dataset.search.sidecar import FOLDER_SUFFIX
from stem_dataset.search.sound_neighbours import PLACED_AMONG, Neighbours, blocks, place_among
from stem_dataset.search.sound_projection import LEAST_DISTANCE, NEAREST, Report, method_for, project
from stem_dataset.signals import TICK_S

MAP_NAME = "map.npz"
MAP_LOCK_NAME = "map.lock"
# Increase this when the same rows would get other places.
MAP_RECIPE = 1
SAMPLE_ROWS = 50_000
SEED = 0
PARAMETERS = {"nearest": NEAREST, "least_distance": LEAST_DISTANCE, "metric": "cosine", "placed_among": PLACED_AMONG}
VERSIONS_OF = ("numpy", "umap-learn", "numba")


@dataclass(frozen=True)
class MapHeader:
    """What a map was computed from, and with which program.

    rows: those that have a place
    laid_out: those of them that were laid out and not placed among others
    method: 'UMAP', or 'PCA' for a few rows
    """

    recipe: int
    embedding_model: str
    seed: int
    parameters: dict[str, Any]
    method: str
    rows: int
    laid_out: int
    versions: dict[str, str]


@dataclass(frozen=True)
class SoundMap:
    """The places of a library's rows, in the order of their positions.

    places: (rows, 2), from -1 to 1; NaN where a row has none
    is_laid_out: (rows,), whether the row was laid out and not placed among others
    missing: the positions of the rows that have no place yet; rows of other models never get one
    """

    header: MapHeader
    places: Float32
    is_laid_out: npt.NDArray[np.bool_]
    missing: Positions


@dataclass(frozen=True)
class StoredMap:
    """What the file has of n rows.

    keys: (n,) in ascending order, see `keys_of`
    places: (n, 2)
    is_laid_out: (n,)
    """

    header: MapHeader
    keys: npt.NDArray[np.uint64]
    places: Float32
    is_laid_out: npt.NDArray[np.bool_]


def map_file(database: Path) -> Path:
    """Return where the map of `database` is kept."""
    database = database.resolve()
    return database.with_name(database.name + FOLDER_SUFFIX) / MAP_NAME


def find_map(library: Library, file: Path) -> SoundMap | None:
    """Return the map that is kept; None if all stems must be laid out anew.

    Where stems were added, some have no place yet. A million rows take 4 seconds.
    """
    stored = read_stored(file)
    if stored is None or not _is_comparable(stored.header, library):
        return None
    found = _matched(library, stored)
    placed = len(library.comparable(np.arange(len(library.vectors)))) - len(found.missing)
    is_enough = placed >= len(found.missing) and 2 * np.count_nonzero(found.is_laid_out) >= found.header.laid_out
    return found if is_enough else None


def make_map(library: Library, file: Path, report: Report) -> SoundMap:
    """Return the map of all stems, and keep it in `file`. What is there already is not computed again.

    `report` is called with what is being done, the steps done and all steps. If it raises, what was kept stays as it
    was. Raises `RunStopped` if the file cannot be written.
    """
    with _only_one(file, report):
        # Another process may have made it meanwhile.
        kept = find_map(library, file)
        if kept is not None and not len(kept.missing):
            return kept
        whole = _with_missing_placed(library, kept or _laid_out(library, report), report)
        _write(file, StoredMap(whole.header, *_sorted_by_key(library, whole)))
        return whole


def keys_of(library: Library) -> npt.NDArray[np.uint64]:
    """Return what a row is known by when positions have changed, (rows,): a hash of its id and its file's bytes.

    A file that was edited keeps its id, and has another vector.
    """
    rows = library.connection.execute("SELECT id, sha256 FROM stems ORDER BY position")
    digests = b"".join(hashlib.blake2b(f"{i} {sha256}".encode(), digest_size=8).digest() for i, sha256 in rows)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def read_stored(file: Path) -> StoredMap | None:
    """Return the content of the file; None if there is none, or if it is damaged."""
    try:
        # If the file is damaged, np.load would leave one open that it has opened itself.
        with open(file, "rb") as content, np.load(content, allow_pickle=False) as arrays:
            header = MapHeader(**json.loads(arrays["header"].tobytes()))
            stored = StoredMap(header, arrays["keys"], arrays["places"], arrays["is_laid_out"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        log.warning("%s: is damaged, so the map is computed again: %s", printable(file), error)
        return None
    return stored


def _is_comparable(header: MapHeader, library: Library) -> bool:
    """Whether new rows may be placed among those of this map."""
    wanted = (MAP_RECIPE, library.embedding_model, SEED, PARAMETERS)
    return (header.recipe, header.embedding_model, header.seed, header.parameters) == wanted


def _matched(library: Library, stored: StoredMap) -> SoundMap:
    """Return the stored places in the order of the library's positions."""
    rows = len(library.vectors)
    places, is_laid_out = np.full((rows, 2), np.nan, np.float32), np.zeros(rows, np.bool_)
    own = library.comparable(np.arange(rows))
    if len(stored.keys):
        keys = keys_of(library)[own]
        entries = np.minimum(np.searchsorted(stored.keys, keys), len(stored.keys) - 1)
        is_known = stored.keys[entries] == keys
        places[own[is_known]] = stored.places[entries[is_known]]
        is_laid_out[own[is_known]] = stored.is_laid_out[entries[is_known]]
    return SoundMap(stored.header, places, is_laid_out, own[np.isnan(places[own, 0])])


def _laid_out(library: Library, report: Report) -> SoundMap:
    """Return a new map, in which only the stems of the sample have places."""
    rows = len(library.vectors)
    own = library.comparable(np.arange(rows))
    count = min(SAMPLE_ROWS, len(own))
    sample = np.sort(np.random.default_rng(SEED).choice(own, count, replace=False))
    places, is_laid_out = np.full((rows, 2), np.nan, np.float32), np.zeros(rows, np.bool_)
    report("reading", 0, 1)
    places[sample] = project(Neighbours(library.vectors[sample], SEED), SEED, report)
    is_laid_out[sample] = True
    header = MapHeader(
        recipe=MAP_RECIPE,
        embedding_model=library.embedding_model,
        seed=SEED,
        parameters=PARAMETERS,
        method=method_for(count),
        rows=count,
        laid_out=count,
        versions={name: importlib.metadata.version(name) for name in VERSIONS_OF},
    )
    return SoundMap(header, places, is_laid_out, np.setdiff1d(own, sample, assume_unique=True))


def _with_missing_placed(library: Library, known: SoundMap, report: Report) -> SoundMap:
    """Return the map with the missing rows placed among those that were laid out."""
    places = known.places.copy()
    if len(known.missing):
        report("reading", 0, 1)
        laid_out = np.flatnonzero(known.is_laid_out)
        neighbours = Neighbours(library.vectors[laid_out], SEED)
        done = 0
        for block in blocks(known.missing):
            places[block] = place_among(neighbours, places[laid_out], library.vectors[block])
            done += len(block)
            report("placing the others", done, len(known.missing))
    placed = int(np.count_nonzero(~np.isnan(places[:, 0])))
    header = dataclasses.replace(known.header, rows=placed)
    return SoundMap(header, places, known.is_laid_out, np.empty(0, np.int64))


def _sorted_by_key(library: Library, whole: SoundMap) -> tuple[Any, ...]:
    """Return keys, places and is_laid_out of the rows that have places."""
    keys = keys_of(library)
    order = np.argsort(keys, kind="stable")
    order = order[~np.isnan(whole.places[order, 0])]
    return keys[order], whole.places[order], whole.is_laid_out[order]


def _write(file: Path, stored: StoredMap) -> None:
    scratch = file.with_name(f"{file.name}.unfinished")
    header = np.frombuffer(json.dumps(dataclasses.asdict(stored.header)).encode(), np.uint8)
    try:
        with open(scratch, "wb") as output:
            np.savez(output, header=header, keys=stored.keys, places=stored.places, is_laid_out=stored.is_laid_out)
        put_in_place(scratch, file)
    except OSError as error:
        raise RunStopped(f"{printable(file)}: the map cannot be kept: {with_remedy(error)}") from None
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_one(file: Path, report: Report) -> Iterator[None]:
    """Let one process at a time compute this map."""
    import filelock  # only for this

    lock = filelock.FileLock(file.with_name(MAP_LOCK_NAME))
    try:
        while not lock.is_locked:
            report("waiting for another process", 0, 1)
            with contextlib.suppress(filelock.Timeout):
                lock.acquire(timeout=TICK_S)
    except OSError as error:
        raise RunStopped(f"{printable(file.parent)}: the map cannot be kept: {with_remedy(error)}") from None
    try:
        yield
    finally:
        lock.release()
