"""Download the weights from the Hugging Face hub, once, and verify them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stem_dataset.clap.checkpoints import CHECKPOINTS, ModelCache, Weights
from stem_dataset.errors import WeightsMissing
from stem_dataset.logs import log, printable

HUB_PROBE_S = 5.0

HUB_REPOSITORY = "lukewys/laion_clap"
HUB_REVISION = "b3708341862f581175dba5c356a4ebf74a9b6651"
# laion_clap asks for the default revision of these three with every checkpoint, but runs only roberta-base.
TEXT_MODEL_FILES = {
    "bert-base-uncased": ("config.json", "vocab.txt"),
    "roberta-base": ("config.json", "vocab.json", "merges.txt", "model.safetensors"),
    "facebook/bart-base": ("config.json", "vocab.json", "merges.txt"),
}

DOWNLOAD_SIZES = {"HTSAT-tiny": "1.9 GB", "HTSAT-base": "2.4 GB"}


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository.

    Without `sha256`, it is checked by the hash in its name in the cache, if it has one.
    """

    repository: str
    name: str
    revision: str
    sha256: str | None = None
    size_text: str = ""

    def __str__(self) -> str:
        return f"{self.repository}/{self.name}" + (f" ({self.size_text})" if self.size_text else "")


def fetch_weights(weights: Weights, cache: ModelCache) -> Path:
    """Return the checkpoint's path, with all needed files in the hub's cache.

    Every file that laion_clap needs is verified. Missing files are downloaded. Afterwards the hub's client is offline,
    so that no run depends on the network. Raises `WeightsMissing` with a list of the missing files and the possible
    remedies.
    """
    # Use the one protocol that is tested.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    import huggingface_hub

    try:
        paths = {file: cached_path(file, cache) for file in _wanted_files(weights)}
        missing = [file for file, path in paths.items() if path is None]
        if missing:
            _probe_hub(missing)
            paths |= {file: _download(file, missing, cache) for file in missing}
    except OSError as error:
        # For example, a wrong file in a read-only cache.
        raise WeightsMissing(f"the hub's cache cannot be used: {error}; HF_HUB_CACHE sets another folder") from None
    os.environ["HF_HUB_OFFLINE"] = "1"
    # The client read the environment when it was imported.
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    path = weights.file or list(paths.values())[-1]
    assert path is not None  # all files are cached by now
    return path


def _wanted_files(weights: Weights) -> list[HubFile]:
    """Return the files that laion_clap loads from the hub's cache, the checkpoint last."""
    wanted = [HubFile(repository, name, "main") for repository, names in TEXT_MODEL_FILES.items() for name in names]
    if weights.file is None:
        size_text = DOWNLOAD_SIZES[CHECKPOINTS[weights.name].architecture]
        wanted.append(HubFile(HUB_REPOSITORY, f"{weights.name}.pt", HUB_REVISION, weights.sha256, size_text))
    return wanted


def cached_path(file: HubFile, cache: ModelCache) -> Path | None:
    """Return the path of `file` in the hub's cache, or None.

    A file with a wrong hash is removed.
    """
    import huggingface_hub

    path = huggingface_hub.try_to_load_from_cache(file.repository, file.name, revision=file.revision)
    if not isinstance(path, str):
        return None
    if _is_intact(Path(path), file.sha256, cache):
        return Path(path)
    # The hub's client itself would use the damaged file.
    log.warning("%s has a wrong hash and is removed from the cache", printable(path))
    Path(path).resolve().unlink(missing_ok=True)
    Path(path).unlink(missing_ok=True)
    return None


def _is_intact(path: Path, sha256: str | None, cache: ModelCache) -> bool:
    """Whether a cached file has the hash that it should have.

    Without a known hash, it is the one that names its blob: a sha256 for large files and git's sha1 for small
    ones. A cache without links (on Windows, or a copy) has no such names; its files are not checked.
    """
    blob = path.resolve().name
    is_named_by_hash = path.is_symlink() and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob)
    expected = sha256 or (blob if is_named_by_hash else None)
    if expected is None:
        return True
    if len(expected) == 64:
        return cache.sha256_of(path) == expected
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == expected


def _probe_hub(missing: Sequence[HubFile]) -> None:
    """Raise `WeightsMissing` if the hub does not answer one HEAD request.

    The hub's client itself would retry for 23 s per file.
    """
    import httpx2
    import huggingface_hub

    endpoint = huggingface_hub.constants.ENDPOINT
    if huggingface_hub.constants.is_offline_mode():
        raise WeightsMissing(_missing_text(missing, "HF_HUB_OFFLINE is set, so nothing is downloaded"))
    try:
        response = huggingface_hub.get_session().head(endpoint, timeout=HUB_PROBE_S)
    except (OSError, httpx2.HTTPError) as error:
        raise WeightsMissing(_missing_text(missing, f"{endpoint} does not answer: {error}")) from None
    if response.status_code >= 500:
        raise WeightsMissing(_missing_text(missing, f"{endpoint} answers {response.status_code}"))


def _download(file: HubFile, missing: Sequence[HubFile], cache: ModelCache) -> Path:
    """Download one file into the hub's cache and return its path.

    Raises `WeightsMissing` if that fails, or if the file has a wrong hash.
    """
    import httpx2
    import huggingface_hub

    log.info("downloading %s", file)
    _remove_unfinished_downloads(file.repository)
    try:
        huggingface_hub.hf_hub_download(file.repository, file.name, revision=file.revision)
    except (OSError, httpx2.HTTPError) as error:
        why = f"{file} cannot be downloaded: {type(error).__name__}: {error}"
        raise WeightsMissing(_missing_text(missing, why)) from None
    path = cached_path(file, cache)
    if path is None:
        raise WeightsMissing(_missing_text(missing, f"{file} came with a wrong hash and was removed; run again"))
    return path


def _remove_unfinished_downloads(repository: str) -> None:
    """Remove unfinished downloads of killed runs.

    The client would start again under another name and never delete them. A file that another process is still writing
    is locked, and stays.
    """
    import filelock
    import huggingface_hub

    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    folder = huggingface_hub.file_download.repo_folder_name(repo_id=repository, repo_type="model")
    for unfinished in (cache / folder / "blobs").glob("*.incomplete"):
        lock_file = cache / ".locks" / folder / f"{unfinished.name.split('.')[0]}.lock"
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(lock_file, timeout=0):
            unfinished.unlink(missing_ok=True)


def _missing_text(missing: Sequence[HubFile], why: str) -> str:
    import huggingface_hub

    cache = huggingface_hub.constants.HF_HUB_CACHE
    return "\n".join(
        [
            f"The CLAP weights on this machine are incomplete: {why}. No file was touched. Missing:",
            *(f"  {file}, revision {file.revision}" for file in missing),
            f"They belong in {cache} (HF_HUB_CACHE sets another folder). What you can do:",
            "  - run once on a machine that can reach the hub; finished downloads are kept",
            "  - if you already have the checkpoint, give --checkpoint FILE (the text model's files are still needed)",
            "  - run this on another machine to fill its cache, and copy that folder here",
            "  - to try it without weights: python fixtures/make_clap.py DIR, then HF_HUB_CACHE=DIR/hub and",
            "    --checkpoint DIR/stand-in.pt (its vectors mean nothing)",
        ]
    )
