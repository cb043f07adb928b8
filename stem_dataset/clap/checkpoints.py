"""Identify a run's checkpoint, and cache what was made from it."""

from __future__ import annotations

import contextlib
import difflib
import json
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stem_dataset.audio.windowing import window_rule
from stem_dataset.datatypes import storable
from stem_dataset.errors import UsageError, WeightsMissing
from stem_dataset.files import put_in_place, sha256_of_path
from stem_dataset.logs import log, printable
from stem_dataset.output_folders import write_readme

CACHE_README = """\
What prepare_dataset_sql.py made of the CLAP weights, so that later runs start faster: hashes of files, compiled models
and the vectors of texts.
You can remove this folder at any time. The next run makes what it needs again.
"""


@dataclass(frozen=True)
class Checkpoint:
    """A published CLAP checkpoint of `HUB_REPOSITORY`; `architecture` is laion_clap's `amodel`."""

    name: str
    architecture: str
    sha256: str
    size_bytes: int | None  # None: unknown


# A line has the name, the architecture, the size in bytes (0: unknown) and the sha256.
CHECKPOINTS = {
    name: Checkpoint(name, architecture, sha256, int(size_bytes) or None)
    for name, architecture, size_bytes, sha256 in (
        line.split()
        for line in """
        630k-audioset-best HTSAT-tiny 1863587645 8053c9775516af2f4902e1e8281e356cc1bf7a85e8b761908170767b77c3f037
        630k-best HTSAT-tiny 0 e02951eae3c9955db546c50086059e6457188ec39446858f2bddbcb4b56b1cb3
        music_audioset_epoch_15_esc_90.14 HTSAT-base 2352471003 \
            fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd
        music_speech_audioset_epoch_15_esc_89.98 HTSAT-base 2352471003 \
            51c68f12f9d7ea25fdaaccf741ec7f81e93ee594455410f3bca4f47f88d8e006
        """.strip().splitlines()
    )
}

# How torch's formats begin, the present one and that before 1.6.
ZIP_BEGIN = b"PK\x03\x04"
PICKLE_BEGIN = b"\x80"

# In a file that is none of the above, the width of the patch embedding shows which architecture it has.
ARCHITECTURE_BY_WIDTH = {96: "HTSAT-tiny", 128: "HTSAT-base"}
PATCH_EMBEDDING = "audio_branch.patch_embed.proj.weight"


@dataclass(frozen=True)
class Weights:
    """The checkpoint of a run.

    `file` is None if it comes from the hub's cache. `architecture` is None until the file itself has been read.
    """

    name: str
    sha256: str
    file: Path | None
    architecture: str | None

    @property
    def is_published(self) -> bool:
        """Whether this is a published checkpoint.

        Only those have learnt to match texts with sounds.
        """
        return self.sha256 in {known.sha256 for known in CHECKPOINTS.values()}

    def embedding_model(self, max_windows: int, precision: str) -> str:
        """Return the name that comparable vectors share."""
        return f"{self.name}@{self.sha256[:12]}/{precision}/{window_rule(max_windows)}"


class ModelCache:
    """A folder of what earlier runs made from the weights.

    It holds hashes of files, compiled towers and vectors of texts. With it, a start needs neither torch nor two
    gigabytes of weights. It may be removed at any time; it is made again.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is None:
            import platformdirs

            folder = platformdirs.user_cache_path("prepare_dataset_sql", appauthor=False)
        self.folder = folder

    def folder_of(self, weights: Weights) -> Path:
        """Return the folder of everything that was made from one checkpoint."""
        return self.folder / weights.sha256[:12]

    def sha256_of(self, file: Path) -> str:
        """Return the hex sha256 of `file`, computed only once.

        The cached one is used while size and mtime are the same.
        """
        status = file.stat()
        note_file = self.folder / "sha256.json"
        name, mark = str(file.resolve()), [status.st_size, status.st_mtime_ns]
        notes = read_json(note_file)
        note = notes.get(name)
        if isinstance(note, dict) and note.get("size_and_mtime_ns") == mark and "sha256" in note:
            return str(note["sha256"])
        digest = sha256_of_path(file)
        notes[name] = {"size_and_mtime_ns": mark, "sha256": digest}
        self.keep(note_file, json.dumps(notes, indent=1).encode())
        return digest

    def keep(self, path: Path, content: bytes) -> None:
        """Write `content` to `path`, whole or not at all.

        If that fails, warn and go on without it.
        """
        scratch = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_readme(self.folder, CACHE_README)
            scratch.write_bytes(content)
            put_in_place(scratch, path)
        except OSError as error:
            # ENOTDIR where a file is in the folder's place.
            with contextlib.suppress(OSError):
                scratch.unlink()
            log.warning("the model cache cannot be written, so the next start is slower: %s", printable(error))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; {} if missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def identify_weights(checkpoint: str, cache: ModelCache) -> Weights:
    """Return the checkpoint of a published name or of a file.

    The file is hashed. Nothing is unpickled or downloaded. Raises `UsageError` for what `find_checkpoint` does not
    find, or a file whose content does not match its name, and `WeightsMissing` for a file that holds no checkpoint or
    half of one.
    """
    file = find_checkpoint(checkpoint)
    if file is not None:
        return _identify_file(file, cache)
    known = CHECKPOINTS[checkpoint]
    return Weights(known.name, known.sha256, None, known.architecture)


def find_checkpoint(checkpoint: str) -> Path | None:
    """Return the file that `checkpoint` names, or None if it is a published name.

    Raises `UsageError` if it is neither.
    """
    file = Path(checkpoint).expanduser()
    if checkpoint in CHECKPOINTS:
        return None
    if file.is_file():
        return file
    if file.is_dir():
        raise UsageError(f"--checkpoint {printable(file)}: is a folder; give the checkpoint file inside it")
    published = f"Published ones: {', '.join(CHECKPOINTS)}"
    if file.suffix == ".pt" or len(file.parts) > 1:
        raise UsageError(f"--checkpoint {printable(file)}: no such file. {published}")
    nearest = difflib.get_close_matches(checkpoint, CHECKPOINTS, n=1, cutoff=0)[0]
    raise UsageError(
        f"--checkpoint {checkpoint!r}: neither a file nor a published checkpoint; did you mean {nearest!r}? {published}"
    )


def _identify_file(file: Path, cache: ModelCache) -> Weights:
    """Return the checkpoint in `file`.

    It may be published, misnamed, truncated, modified or unknown.
    """
    by_name = CHECKPOINTS.get(file.stem)
    try:
        # These two come before the hash, which is kept in a file.
        _refuse_other_content(file)
        if _is_cut_off(file):
            whole = f" of {by_name.size_bytes:,}" if by_name and by_name.size_bytes else ""
            size = f"{file.stat().st_size:,}{whole} bytes"
            raise WeightsMissing(f"{printable(file)}: truncated: ends after {size}; download it again")
        digest = cache.sha256_of(file)
    except OSError as error:
        raise WeightsMissing(f"--checkpoint {printable(file)}: cannot be read: {error}") from None
    by_content = next((known for known in CHECKPOINTS.values() if known.sha256 == digest), None)
    if by_content is not None and by_name not in (None, by_content):
        raise UsageError(
            f"{printable(file)}: wrong pairing: the name says {file.stem}, the content is {by_content.name} "
            f"({by_content.architecture}); rename it to {by_content.name}.pt"
        )
    if by_content is not None:
        return Weights(by_content.name, digest, file, by_content.architecture)
    return Weights(storable(file.stem), digest, file, None)


def _refuse_other_content(file: Path) -> None:
    """Raise `WeightsMissing` if `file` is no checkpoint at all, as a web page that was saved under its name."""
    with open(file, "rb") as opened:
        begin = opened.read(4)
    if not (ZIP_BEGIN.startswith(begin) or begin.startswith(PICKLE_BEGIN)):
        raise WeightsMissing(
            f"{printable(file)}: holds no checkpoint: it is neither a zip archive nor a pickle of torch's"
        )


def _is_cut_off(file: Path) -> bool:
    """Whether `file` is empty, or a zip archive of torch's without its end.

    The end of a zip archive has the list of its contents.
    """
    with open(file, "rb") as opened:
        return ZIP_BEGIN.startswith(opened.read(4)) and not zipfile.is_zipfile(opened)


def warn_of_odd_weights(weights: Weights) -> None:
    """Warn if the checkpoint is none of the published ones, or one that was modified."""
    file, digest = weights.file, weights.sha256
    if file is None or weights.is_published:
        return
    by_name = CHECKPOINTS.get(file.stem)
    if by_name is None:
        log.warning(
            "%s is not a published checkpoint: its vectors are comparable only with each other", printable(file)
        )
    else:
        log.warning(
            "%s is a modified %s: its sha256 is %s…, the published one's %s…; perhaps another tool has re-saved it. "
            "Its vectors are comparable only with each other",
            *(printable(file), by_name.name, digest[:12], by_name.sha256[:12]),
        )
