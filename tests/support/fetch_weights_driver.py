"""`fetch_weights` in a process of its own: huggingface_hub reads its settings once, at its import.

    python tests/support/fetch_weights_driver.py CHECKPOINT [SHA256]

With SHA256, that is what the published checkpoint CHECKPOINT is expected to hash to, so that a few MiB can stand for
it. Prints one line of JSON: the seconds it took, the names of the files that were `hashed`, and either `path` with the
client's state afterwards or `missing`, the text of `WeightsMissing`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from stem_dataset.clap import checkpoints
from stem_dataset.clap.checkpoints import CHECKPOINTS, ModelCache, identify_weights
from stem_dataset.clap.download import fetch_weights
from stem_dataset.errors import WeightsMissing

HASHED: list[str] = []


def count_hashing() -> None:
    """Note the name of every file that is hashed whole."""
    sha256_of_path = checkpoints.sha256_of_path  # type: ignore[attr-defined]

    def counting(path: str | Path) -> str:
        HASHED.append(Path(path).name)
        return sha256_of_path(path)

    checkpoints.sha256_of_path = counting  # type: ignore[attr-defined]


def fetch(checkpoint: str) -> dict[str, Any]:
    try:
        cache = ModelCache(Path(os.environ["TEST_MODEL_CACHE"]))
        path = fetch_weights(identify_weights(checkpoint, cache), cache)
    except WeightsMissing as error:
        return {"missing": str(error)}
    import huggingface_hub

    constants = huggingface_hub.constants
    return {
        "path": str(path),
        "is_offline": constants.is_offline_mode(),
        "uses_xet": not constants.HF_HUB_DISABLE_XET,
    }


def main(checkpoint: str, sha256: str | None = None) -> None:
    if sha256 is not None:
        published = CHECKPOINTS[checkpoint]
        CHECKPOINTS[checkpoint] = dataclasses.replace(published, sha256=sha256)
    count_hashing()
    begun_s = time.monotonic()
    answer = fetch(checkpoint)
    print(json.dumps({**answer, "hashed": HASHED, "seconds": time.monotonic() - begun_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
