"""Import copied, moved and renamed files without decoding them.

Their bytes are those of a row or of another file. A file with new tags is decoded, but keeps its vector.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stem_dataset.clap.session import ClapSession
from stem_dataset.config import Config
from stem_dataset.database.moves import move_rows
from stem_dataset.database.resume import ResumeFilter
from stem_dataset.database.stems import MOVED_MTIME_NS, Database
from stem_dataset.datatypes import (
    UNKNOWN_CATEGORY,
    FoundFile,
    KnownRow,
    NameFacts,
    ProcessedFile,
    StemMetadata,
    StemRecord,
    utc_now,
)
from stem_dataset.drives import is_gone
from stem_dataset.files import put_in_place, sync_folder
from stem_dataset.music.describe import describe
from stem_dataset.music.filenames import read_name
from stem_dataset.output_folders import scratch_folder, wav_path

Action = Literal[
    # No row can be used.
    "decode",
    # Another file with the same bytes is decoded first; its row will be copied.
    "wait",
    # The file's own row already has these bytes.
    "keep",
    # The row of another file is copied.
    "copy",
    # The file of a row is gone, so the row becomes this file's.
    "move",
    # The same, but the row is out of date or its WAV is missing.
    "move and decode",
]


@dataclass(frozen=True, slots=True)
class Decision:
    """A file, what to do with it, and which row to use."""

    found: FoundFile
    action: Action
    row_id: str = ""


def plan(
    files: Sequence[FoundFile],
    digests: Mapping[str, str],
    rows: Mapping[str, Sequence[KnownRow]],
    paths_with_rows: Set[str],
    broken: Set[str],
) -> list[Decision]:
    """Decide about each of `files`, in order, before any is decoded.

    `digests` maps the path of each possible duplicate to its sha256, and `rows` maps each sha256 to its rows, oldest
    first. `paths_with_rows` are the paths that already have a row. `broken` holds the hashes of files that this run has
    quarantined; files with the same bytes as those do not wait for each other.
    """
    decisions = []
    decoded: set[str] = set()
    sources: dict[str, _Sources] = {}
    for found in files:
        digest = digests.get(found.path)
        if digest is None:
            decision = Decision(found, "decode")
        elif digest in decoded:
            decision = Decision(found, "wait")
        else:
            if digest not in sources:
                sources[digest] = _Sources(rows.get(digest, ()))
            decision = sources[digest].decide(found, found.path in paths_with_rows)
            if decision.action.endswith("decode") and digest not in broken:
                decoded.add(digest)
        decisions.append(decision)
    return decisions


def plan_moves(
    files: Sequence[FoundFile],
    digests: Mapping[str, str],
    rows: Mapping[str, Sequence[tuple[str, str]]],
    is_free: Callable[[str, str], bool],
) -> dict[str, str]:
    """Return the paths of `files` to which rows move, by the rows' ids.

    `rows` maps each sha256 to the ids and paths of its rows, oldest first. `is_free(path, sha256)` says whether the
    file at the path of a row no longer has the row's bytes.
    """
    own = {digest: {path for _, path in found} for digest, found in rows.items()}
    free = {digest: _free_rows(digest, found, is_free) for digest, found in rows.items()}
    moves = {}
    for found in files:
        digest = digests.get(found.path)
        if digest is not None and found.path not in own[digest]:
            stem_id = next(free[digest], None)
            if stem_id is not None:
                moves[stem_id] = found.path
    return moves


def _free_rows(digest: str, rows: Sequence[tuple[str, str]], is_free: Callable[[str, str], bool]) -> Iterator[str]:
    """Yield the ids of the rows that may move; there may be thousands, so each is asked about only if needed."""
    yield from (stem_id for stem_id, path in rows if is_free(path, digest))


class _Sources:
    """The rows that share one hash, prepared for decisions in constant time.

    There may be thousands of rows, so no decision may scan all of them.
    """

    def __init__(self, rows: Sequence[KnownRow]) -> None:
        """`rows` is sorted, oldest first."""
        self.by_path = {row.original_file: row for row in rows}
        self.gone = [row for row in reversed(rows) if row.is_gone]
        self.newest = next((row for row in reversed(rows) if row.can_serve), None)

    def decide(self, found: FoundFile, has_row: bool) -> Decision:
        """Decide about one file; a row that moves to it cannot move again."""
        own = self.by_path.get(found.path)
        if not has_row and self.gone:
            gone = self.gone.pop()
            return Decision(found, "move" if gone.can_serve else "move and decode", gone.id)
        if own is not None:
            return Decision(found, "keep", own.id) if own.can_serve else Decision(found, "decode")
        return Decision(found, "decode") if self.newest is None else Decision(found, "copy", self.newest.id)


class Duplicates:
    """Finds rows and files whose bytes a new file shares."""

    def __init__(
        self, config: Config, root: str, database: Database, session: ClapSession, need_clap: Callable[[], None]
    ) -> None:
        """`root` is the input folder's real path; `need_clap` loads CLAP once."""
        self.config = config
        self.root = root
        self.stems = Path(os.path.realpath(config.stems)) if config.stems else None
        self.scratch_folder = scratch_folder(self.stems, Path(os.path.realpath(config.quarantine)))
        self.database = database
        self.session = session
        self.need_clap = need_clap
        self.broken: set[str] = set()  # hashes of files that were quarantined
        # By hash. A hash may have thousands of rows, so each is looked up once per run.
        self._rows: dict[str, list[KnownRow]] = {}
        # By hash: the file that is decoded, and the files that wait for it.
        self._waiting: dict[str, tuple[FoundFile, list[FoundFile]]] = {}
        self._silent_folders: set[str] = set()  # folders on drives that hang
        self.digests: dict[str, str] = {}  # of the files that were hashed before any was decoded, by path
        self._moved: set[str] = set()  # the paths among those to which rows have moved

    def to_hash_first(self, known: ResumeFilter) -> list[FoundFile]:
        """Return the files that may have swapped names with each other.

        These are the files that have changed since their import, and those of a size one of them had. They must all
        be hashed before one is decoded, because decoding rewrites the row, and with it the hash of the old bytes.
        """
        sizes = set(known.changed.values())
        return [found for found in known.new_files if found.path in known.changed or found.size_bytes in sizes]

    def follow_bytes(self, digests: dict[str, str], known: ResumeFilter) -> None:
        """Move each row to the new file that has its bytes now, even if its own path still exists.

        `digests` are the hashes of the files to hash first, by path. A row is free to move if its file is gone, or
        holds other bytes now. A file whose bytes no row describes keeps its row.
        """
        self.digests = digests
        # No row has the size of these files, so they do not hold the bytes of any row.
        edited = {found.path for found in known.new_files if found.size_bytes not in known.shared_sizes}
        rows = {digest: [row[:2] for row in self.database.rows_of(digest)] for digest in set(digests.values())}

        def is_free(path: str, digest: str) -> bool:
            if path in digests:
                return digests[path] != digest
            return path in edited or self._is_gone(path)

        moves = plan_moves(known.new_files, digests, rows, is_free)
        if moves:
            move_rows(self.database, moves)
            self._moved = set(moves.values())

    def decide(self, files: Sequence[FoundFile], digests: Mapping[str, str]) -> list[Decision]:
        """Decide what to do with each of `files`; see `plan`.

        Files that wait are remembered until `follow` or `left_over` returns them.
        """
        with_rows = {path for path in digests if self.database.former_row(path) is not None}
        rows = {digest: self._rows_with(digest) for digest in set(digests.values())}
        decisions = plan(files, digests, rows, with_rows, self.broken)
        for decision in decisions:
            found, digest = decision.found, digests.get(decision.found.path)
            if digest is not None and decision.action == "wait":
                self._waiting[digest][1].append(found)
            elif digest is not None and decision.action.endswith("decode"):
                if digest not in self.broken:
                    self._waiting[digest] = (found, [])
                # The file's new row must be found when the rows are looked up again.
                self._rows.pop(digest, None)
        decisions = [self._as_move(decision) for decision in decisions]
        self._note_moves([decision for decision in decisions if decision.action == "move"], digests)
        return decisions

    def _as_move(self, decision: Decision) -> Decision:
        """Return the decision for a file to which its row has just moved."""
        is_moved = decision.action == "keep" and decision.found.path in self._moved
        return dataclasses.replace(decision, action="move") if is_moved else decision

    def _note_moves(self, decisions: Sequence[Decision], digests: Mapping[str, str]) -> None:
        """Update the remembered rows after they have moved to other files.

        Only the hashes of the moved files are looked at: a run may remember the rows of a whole library.
        """
        moved = {decision.row_id: decision.found for decision in decisions}
        for digest in {digests[found.path] for found in moved.values()}:
            rows = self._rows.get(digest, [])
            for place, row in enumerate(rows):
                if row.id in moved:
                    rows[place] = KnownRow(row.id, moved[row.id].path, is_gone=False, can_serve=row.can_serve)

    def _rows_with(self, digest: str) -> list[KnownRow]:
        if digest not in self._rows:
            rows = [
                KnownRow(stem_id, original_file, self._is_gone(original_file), is_current and self._has_wav(wav))
                for stem_id, original_file, wav, is_current in self.database.rows_of(digest)
            ]
            if not rows:
                return []
            self._rows[digest] = rows
        return self._rows[digest]

    def _is_gone(self, path: str) -> bool:
        folder = os.path.dirname(path)
        try:
            return folder not in self._silent_folders and is_gone(path)
        except TimeoutError:
            self._silent_folders.add(folder)
            return False

    def _has_wav(self, wav: str | None) -> bool:
        return self.stems is None or (wav is not None and os.path.exists(wav))

    def row_of(self, decision: Decision) -> StemRecord:
        """Return the row of a file that needs no decoding."""
        source = self.database.stem_of(decision.row_id)
        assert source is not None, "no row is deleted between its decision and this call"
        return self._row_of(source, decision.found, is_own=decision.action != "copy")

    def _row_of(self, source: StemRecord, found: FoundFile, is_own: bool) -> StemRecord:
        """Return `source` as the row of `found`, which has the same bytes.

        With `is_own`, the row keeps its id. Otherwise it is a copy, and gets a free one.
        """
        names = read_name(found.path, self.root, self.config.categories)
        stem = renamed(source.metadata, found, names)
        if not is_own:
            stem = self.with_id(stem, self.database.free_id(found.path, stem.sha256))
        told_by_name = json.loads(source.metadata.features)["category_source"] == "name"
        if stem.category == UNKNOWN_CATEGORY and told_by_name and self.session.weights.is_published:
            self.need_clap()
            stem = self.session.described(stem, source.clap_embedding)
        return dataclasses.replace(source, metadata=stem, imported_at=utc_now())

    def with_id(self, stem: StemMetadata, stem_id: str) -> StemMetadata:
        """Return `stem` with another id, and link its WAV under the matching name."""
        path = wav_path(self.stems, stem_id) if self.stems else None
        if path and stem.path:
            link_wav(stem.path, path, self.scratch_folder)
        return dataclasses.replace(stem, id=stem_id, path=path)

    def row_with_former_vector(self, processed: ProcessedFile) -> tuple[StemRecord, bool] | None:
        """Return a re-tagged file's row with its former vector.

        Also returns whether the row was moved. Returns None if the samples have changed.
        """
        if processed.found.former is None:
            return None
        former = self.database.stem_at(processed.found.path)
        if former is None or former.metadata.samples_sha256 != processed.metadata.samples_sha256:
            return None
        stem = self.session.described(processed.metadata, former.clap_embedding)
        record = dataclasses.replace(former, metadata=stem, imported_at=utc_now())
        return record, former.metadata.mtime_ns == MOVED_MTIME_NS

    def follow(self, records: Iterable[StemRecord]) -> list[StemRecord]:
        """Return the rows of files that waited for `records`, which are now committed."""
        followers = []
        for record in records:
            _, waiting = self._waiting.pop(record.metadata.sha256, (None, []))
            followers += [self._row_of(record, found, is_own=False) for found in waiting]
        return followers

    def left_over(self, unsettled: Set[str]) -> list[FoundFile]:
        """Return the files that waited for one that failed; each may succeed."""
        failed = [digest for digest, (decoded, _) in self._waiting.items() if decoded.path not in unsettled]
        return [found for digest in failed for found in self._waiting.pop(digest)[1]]


def renamed(stem: StemMetadata, found: FoundFile, names: NameFacts) -> StemMetadata:
    """Return `stem` as the row of `found`, a file with the same bytes.

    The columns that depend on file and folder names are derived from the names of `found`.
    """
    former = json.loads(stem.features)
    description = describe(names, former, stem.duration_s)
    category, features = description.category, description.features
    if names.category is None and former["category_source"] == "clap":
        category, features = stem.category, {**features, "category_source": "clap"}
    else:
        features["category_cosine"] = None
    return dataclasses.replace(
        stem,
        original_file=found.path,
        size_bytes=found.size_bytes,
        mtime_ns=found.mtime_ns,
        inode=found.inode,
        bpm=description.bpm,
        key=description.key,
        category=category,
        features=json.dumps(features),
    )


def link_wav(source: str, target: str, scratch_folder: Path) -> None:
    """Hard-link the WAV `source` as `target`, or copy it if linking fails.

    A link takes no space, and stays when `source` is removed. Some file systems have no hard links, or allow only a
    limited number per file.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        # A killed run left it. Equal names mean equal bytes.
        return
    except OSError:
        scratch_folder.mkdir(exist_ok=True)
        scratch = scratch_folder / os.path.basename(target)
        shutil.copyfile(source, scratch)
        put_in_place(scratch, Path(target))
    else:
        sync_folder(Path(target).parent)
