"""Derive tags and a category from a stem's vector."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from stem_dataset.clap.embed import file_vector
from stem_dataset.clap.engine import ClapModel
from stem_dataset.clap.vectors import well_formed
from stem_dataset.config import TAGS
from stem_dataset.datatypes import EMBEDDING_SIZE, UNKNOWN_CATEGORY, Float32, StemMetadata, StoredStem, storable
from stem_dataset.errors import RunStopped


@dataclass(frozen=True)
class Palette:
    """The names that a stem may get, with their vectors, (N, 512)."""

    names: Sequence[str]
    vectors: Float32


NO_PALETTE = Palette((), np.empty((0, EMBEDDING_SIZE), np.float32))


def embed_palette(model: ClapModel, prompts: Mapping[str, Sequence[str]]) -> Palette:
    """Return the names in `prompts` with the vectors of their prompts.

    A name's vector is the mean of its prompts' vectors, normalised again. This is the prompt ensembling of CLIP
    (Radford et al. 2021, section 3.1.4, https://arxiv.org/abs/2103.00020). The prompts in config.yaml follow
    laion_clap/evaluate/eval_zeroshot_classification.py: "This is a sound of {label}." Raises `RunStopped` if the
    vectors are not well-formed.
    """
    if not prompts:
        return NO_PALETTE
    texts = list(itertools.chain.from_iterable(prompts.values()))
    vectors = np.asarray(model.get_text_embedding(texts), np.float32)
    if vectors.shape != (len(texts), EMBEDDING_SIZE) or not well_formed(vectors).all():
        raise RunStopped(f"CLAP is broken: its vectors of {len(texts)} texts are not all finite and of unit length")
    parts = np.split(vectors, np.cumsum([len(texts) for texts in prompts.values()])[:-1])
    return Palette(list(prompts), np.stack([file_vector(part) for part in parts]))


def nearest_texts(vector: Float32, palette: Palette) -> list[tuple[str, float]]:
    """Return the names of `palette` with their cosines, the nearest first.

    The cosines are those to `vector`, (512,). All vectors have unit length. Names with equal cosines keep their order
    in the palette.
    """
    # Equal rows give equal sums here, which they do not with `@`.
    cosines = (palette.vectors.astype(np.float64) * vector).sum(axis=1)
    return [(palette.names[row], float(cosines[row])) for row in np.argsort(-cosines, kind="stable")]


Described = TypeVar("Described", StemMetadata, StoredStem)


def described_by_clap(stem: Described, vector: Float32, tags: Palette, categories: Palette) -> Described:
    """Return `stem` with the tags and the category nearest to `vector`.

    The category of a name is not replaced. A stem whose `quality_ok` is 0 gets neither. `features` hold the category's
    source ("name", "clap" or null) and, if the source is CLAP, its cosine (otherwise null).
    """
    if not stem.quality_ok:
        tags = categories = NO_PALETTE
    features = json.loads(stem.features)
    choice: tuple[str, str | None, float | None] = (stem.category, "name", None)
    if stem.category == UNKNOWN_CATEGORY or features.get("category_source") == "clap":
        by_clap = [(name, "clap", cosine) for name, cosine in nearest_texts(vector, categories)]
        choice = by_clap[0] if by_clap else (UNKNOWN_CATEGORY, None, None)
    category, source, cosine = choice
    return dataclasses.replace(
        stem,
        category=category,
        tags=storable(json.dumps([tag for tag, _ in nearest_texts(vector, tags)[:TAGS]], ensure_ascii=False)),
        features=json.dumps({**features, "category_source": source, "category_cosine": cosine}),
    )
