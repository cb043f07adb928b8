"""Read a checkpoint file without running code that it may contain."""

from __future__ import annotations

import errno
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stem_dataset.clap.checkpoints import ARCHITECTURE_BY_WIDTH, CHECKPOINTS, PATCH_EMBEDDING
from stem_dataset.errors import WeightsMissing
from stem_dataset.logs import log, printable


def refuse_damage(path: Path) -> None:
    """Raise `WeightsMissing` if a checksum in torch's zip archive is wrong.

    torch itself does not check them.
    """
    if not zipfile.is_zipfile(path):
        # torch's old format has no checksums.
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.testzip()
    except Exception as error:  # zlib.error, BadZipFile, RuntimeError, …
        if _is_the_machines(error):
            raise
        raise WeightsMissing(f"{printable(path)}: damaged: {_reason_of(error)}; download it again") from None
    if entry is not None:
        text = f"damaged: the checksum of {printable(entry)} is wrong; download it again"
        raise WeightsMissing(f"{printable(path)}: {text}")


def _is_the_machines(error: Exception) -> bool:
    """Whether memory or the disk failed while a checkpoint was read.

    Then a new download would not help.
    """
    if isinstance(error, OSError):
        # A damaged file makes torch and zipfile seek to impossible positions: EINVAL, or an OSError without errno.
        return error.errno not in (None, errno.EINVAL)
    # torch raises a RuntimeError when memory runs out.
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


# What torch's safe unpickler says when a pickle asks for more than tensors and numbers.
NEEDS_CODE = re.compile(r"GLOBAL|unrecognized function|allowlisted|must be imported")


def read_checkpoint(path: Path, trust: bool) -> tuple[dict[str, Any], bool]:
    """Return the weights in `path`, and whether they are untrained.

    The weights have laion_clap's names. A stand-in for tests is untrained. Only tensors and numbers are unpickled: a
    checkpoint can contain code, which `CLAP_Module.load_ckpt` would run.
    """
    try:
        content = _unpickle(path, trust)
        state = {name.removeprefix("module."): tensor for name, tensor in content["state_dict"].items()}
    except Exception as error:
        # A damaged file may raise anything: struct.error, UnicodeDecodeError, …
        if _is_the_machines(error):
            raise
        text = f"{printable(path)}: no CLAP checkpoint that can be loaded safely: {_reason_of(error)}"
        if isinstance(error, pickle.UnpicklingError) and NEEDS_CODE.search(str(error)):
            text += ". Loading it may run code that it contains; if you trust its author, use --trust-checkpoint"
        raise WeightsMissing(text) from None
    # The installed transformers does not know this entry.
    state.pop("text_branch.embeddings.position_ids", None)
    return state, "stand-in" in str(content.get("name"))


def _unpickle(path: Path, trust: bool) -> Any:
    import torch

    scalars: list[Any] = [
        np.core.multiarray.scalar,  # type: ignore[attr-defined]
        np.dtype,
        np.dtypes.Int64DType,
        np.dtypes.Float64DType,
    ]
    try:
        # The published checkpoints contain numpy scalars.
        with torch.serialization.safe_globals(scalars):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            raise
        log.warning(
            "%s: loaded with any code that it contains, because of --trust-checkpoint: %s",
            *(printable(path), _reason_of(error)),
        )
        return torch.load(path, map_location="cpu", weights_only=False)


def _reason_of(error: Exception) -> str:
    """Return torch's reason in one line.

    torch's advice to load the file with weights_only=False is left out.
    """
    advice = ("Weights only load failed", "Please file an issue", "Check the documentation")
    lines = [line.strip() for line in str(error).splitlines()]
    found = [line for line in lines if line and not line.startswith(advice)]
    return f"{type(error).__name__}: {printable(found[0])}" if found else type(error).__name__


def architecture_of(state: Mapping[str, Any], path: Path) -> str:
    """Return laion_clap's `amodel` of a checkpoint that is not a published one."""
    if any(".fusion_model." in name for name in state):
        raise WeightsMissing(
            f"{printable(path)}: wrong pairing: a checkpoint for enable_fusion=True is not supported; use one of "
            f"{', '.join(CHECKPOINTS)}"
        )
    shape = getattr(state.get(PATCH_EMBEDDING), "shape", None)
    width = shape[0] if shape else None
    if width not in ARCHITECTURE_BY_WIDTH:
        known = ", ".join(ARCHITECTURE_BY_WIDTH.values())
        raise WeightsMissing(f"{printable(path)}: contains no audio tower of a known architecture ({known})")
    return ARCHITECTURE_BY_WIDTH[width]
