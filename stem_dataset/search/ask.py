"""What a question becomes: filters, and one vector of all that is wanted and unwanted.

The command line and the page ask the same way. Looking a sound up reads the sidecar, and is quick. Making a vector may
load CLAP, which takes seconds, so the two are apart.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stem_dataset.datatypes import Float32
from stem_dataset.errors import UsageError
from stem_dataset.logs import printable
from stem_dataset.search.library import Library
from stem_dataset.search.query import Filters, Range, related_keys
from stem_dataset.search.query_vectors import QueryVectors, vector_of_hex
from stem_dataset.search.rank import combined

# A stored vector, (512,), a sound to embed, or a text to embed.
Part = Float32 | Path | str


@dataclass(frozen=True)
class Given:
    """Filters as a user gives them; see `Filters`."""

    categories: tuple[str, ...] = ()
    tempo: Range | None = None
    half_double: bool = False
    key: str | None = None
    related: bool = False
    is_loop: bool | None = None
    seconds: Range | None = None
    folders: tuple[str, ...] = ()
    rating: int | None = None
    is_ok: bool = False
    needs_listening: bool = False


def filters_of(given: Given) -> Filters:
    """Return the filters; tempi and keys with those that belong to them."""
    tempi: tuple[Range, ...] = (given.tempo,) if given.tempo is not None else ()
    if given.tempo is not None and given.half_double:
        tempi = tuple(given.tempo.times(factor) for factor in (1, 0.5, 2))
    keys: tuple[str, ...] = (given.key,) if given.key is not None else ()
    if given.key is not None and given.related:
        keys = related_keys(given.key)
    return Filters(
        categories=given.categories,
        tempi=tempi,
        keys=keys,
        is_loop=given.is_loop,
        seconds=given.seconds,
        folders=given.folders,
        rating=given.rating,
        is_ok=given.is_ok,
        needs_listening=given.needs_listening,
    )


def reference_of(library: Library) -> Float32 | None:
    """Return the vector, (512,), of the reference signal that the library's model made, if it is known."""
    return vector_of_hex(library.models[library.model][2]) if library.models else None


def sound_of(library: Library, name: str, flag: str) -> Float32 | Path:
    """Return the vector of a stem, or else the file to embed."""
    position = library.position_of(name)
    if position is not None:
        vector = library.vector_at(position)
        if vector is not None:
            return vector
        # Its vector is of another model, so its file is embedded.
        name = library.hits([position])[0].original_file
    if not os.path.isfile(name):
        raise UsageError(f"{flag} {printable(name)}: neither the id of a stem nor a file")
    return Path(name)


def unwanted_of(library: Library, name: str, understands_texts: bool) -> Part:
    """Return the vector of a stem, or else the audio file or the text to embed."""
    if library.position_of(name) is not None or os.path.lexists(name) or os.sep in name:
        return sound_of(library, name, "--unlike")
    if not understands_texts:
        text = "neither the id of a stem nor a file, and this database's model does not understand texts"
        raise UsageError(f"--unlike {printable(name)}: {text}")
    return name


def query_vector(
    query_vectors: QueryVectors, text: str | None, wanted: Sequence[Part], unwanted: Sequence[Part]
) -> Float32 | None:
    """Return the vector, (512,), to search by; None if the model understands nothing of the query."""
    likes = [_vector_of(query_vectors, part) for part in wanted]
    unlikes = [_vector_of(query_vectors, part) for part in unwanted]
    if text is not None and query_vectors.understands_texts:
        likes.append(query_vectors.of_text(text))
    return combined(likes, unlikes) if likes or unlikes else None


def _vector_of(query_vectors: QueryVectors, part: Part) -> Float32:
    if isinstance(part, Path):
        return query_vectors.of_file(part)
    return query_vectors.of_text(part) if isinstance(part, str) else part


def note_on_text(query_vectors: QueryVectors, text: str | None, has_sounds: bool) -> str | None:
    """Return what a user should know of how a text was ranked; None if sound and names both counted."""
    if text is None or query_vectors.understands_texts:
        return None
    model = query_vectors.embedding_model.partition("/")[0] or "an empty database"
    by_sound = "; the sounds given rank by sound" if has_sounds else ""
    return f"{printable(model)} does not understand texts: the words rank by names alone{by_sound}"
