"""What the tests of weights share."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stem_dataset.clap.checkpoints import ModelCache

MIB = 1 << 20


NAME = "630k-audioset-best"


CHECKPOINT = hashlib.shake_256(b"a checkpoint").digest(24 * MIB)  # cut at 12 MiB, the client keeps one piece of 10


CHECKPOINT_SHA256 = hashlib.sha256(CHECKPOINT).hexdigest()


# -- which weights ---------------------------------------------------------------------------------------------------


CACHE = ModelCache(Path("set for each test"))
