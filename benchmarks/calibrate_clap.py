"""How well CLAP's tags and categories fit a labelled folder: python benchmarks/calibrate_clap.py DIR --checkpoint FILE.

For each category and tag of config.yaml it prints the cosines of its text and the files' vectors: the least, 5 %, the
median, 95 % and the greatest, of the files that carry the label and of those that do not. The less the two overlap, the
better the prompts; the program has no floor, and tells of any file what is nearest. Then the zero-shot accuracy over
the files that carry one of the categories, and which are taken for which.

Labels are read from names, as the program reads them (--labels names): the category by the words of `categories`, a tag
by its own name as a word. By --labels folder a file carries the names of the folders it is in ("Drum Loop" is
drum_loop), so that one may be sorted as dark/kick/. Files are read, not touched; broken ones are left out, those of
poor quality, of which the program tells nothing, are not. Only a published checkpoint's numbers mean something.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.audio.windowing import cut_windows
from stem_dataset.clap.checkpoints import CHECKPOINTS, ModelCache, identify_weights
from stem_dataset.clap.embed import batches, embed_windows, file_vectors
from stem_dataset.clap.engine import ClapModel
from stem_dataset.clap.labels import Palette, embed_palette, nearest_texts
from stem_dataset.clap.session import load_clap
from stem_dataset.config import CONFIG_FIELDS, Config, load_config
from stem_dataset.datatypes import Int16
from stem_dataset.discover import WalkRules, discover
from stem_dataset.errors import PrepareError, UsageError
from stem_dataset.files import open_regular
from stem_dataset.logs import printable
from stem_dataset.music.filenames import read_name
from stem_dataset.summary import Summary

QUANTILES = (0, 0.05, 0.5, 0.95, 1)
COLUMNS = ("min", "5 %", "median", "95 %", "max")
TOP = 3


@dataclass(frozen=True)
class Decoded:
    """A file with its windows, as the program hands them to CLAP."""

    path: Path
    windows: list[Int16]


@dataclass(frozen=True)
class Labelled:
    """A file that could be decoded: its vector, (512,), and the labels that it carries."""

    path: Path
    vector: npt.NDArray[np.float32]
    labels: frozenset[str]


@dataclass
class ZeroShot:
    """How often the category is right, over the files that carry one."""

    files: int = 0
    first: int = 0
    among_top: int = 0
    mistaken: Counter[tuple[str, str]] = field(default_factory=Counter)  # (label, answer)


# ------------------------------------------------------------------------------------------------------ the files


def labels_of_names(path: Path, root: Path, config: Config) -> frozenset[str]:
    """Return the category that the file's or its folders' names tell, and the tags that are words of them."""
    tables = [config.categories, *({tag: [tag]} for tag in config.tags)]
    labels = {read_name(str(path), str(root), table).category for table in tables}
    return frozenset(label for label in labels if label is not None)


def labels_of_folders(path: Path, root: Path, config: Config) -> frozenset[str]:
    """Return the names of the folders between `root` and the file."""
    return frozenset(part.lower().replace(" ", "_") for part in path.relative_to(root).parts[:-1])


LABELS = {"names": labels_of_names, "folder": labels_of_folders}


def decoded(folder: Path, config: Config) -> Iterator[Decoded]:
    """Yield the folder's audio files, but for broken ones."""
    found = sorted(Path(found.path) for found in discover(WalkRules(str(folder)), Summary("")))
    with tempfile.TemporaryDirectory() as scratch:
        for path in found:
            try:
                with open_regular(str(path)) as file, StandardisedAudio(Path(scratch)) as audio:
                    standardise(file, audio, config.max_duration_s)
                    windows = cut_windows(audio, config.max_windows)
            except Exception as error:
                print(f"left out: {printable(path)}: {type(error).__name__}: {error}", file=sys.stderr)
            else:
                yield Decoded(path, windows)


def labelled(model: ClapModel, folder: Path, labels: str, config: Config) -> list[Labelled]:
    """Return all files of the folder with their vectors and labels."""
    files = []
    for batch in batches(decoded(folder, config), config.batch_windows):
        vectors = embed_windows(
            model.get_audio_embedding_from_data, [window for file in batch for window in file.windows]
        )
        blobs = file_vectors(vectors, [len(file.windows) for file in batch])
        for file, blob in zip(batch, blobs, strict=True):
            if blob is not None:
                vector = np.frombuffer(blob, "<f4")
                files.append(Labelled(file.path, vector, LABELS[labels](file.path, folder, config)))
        print(f"{len(files)} files embedded", file=sys.stderr)
    return files


# ------------------------------------------------------------------------------------------------------ the tables


def quantiles(cosines: Sequence[float]) -> str:
    """Return the five numbers of a column of the table; dashes where there is no file."""
    if not cosines:
        return "".join(f"{'-':>8}" for _ in COLUMNS)
    return "".join(f"{value:8.3f}" for value in np.quantile(cosines, QUANTILES))


def print_cosines(kind: str, palette: Palette, files: Sequence[Labelled]) -> None:
    """Print a row for each name of the palette: its cosines with the files that carry it, and with the others."""
    head = "".join(f"{column:>8}" for column in COLUMNS)
    print(f"\n{kind:14}{'with it':>8}{head}{'without':>10}{head}")
    near = [dict(nearest_texts(file.vector, palette)) for file in files]
    for name in palette.names:
        carry = [cosine[name] for file, cosine in zip(files, near, strict=True) if name in file.labels]
        others = [cosine[name] for file, cosine in zip(files, near, strict=True) if name not in file.labels]
        print(f"{name:14}{len(carry):8}{quantiles(carry)}{len(others):10}{quantiles(others)}")


def zero_shot(palette: Palette, files: Sequence[Labelled]) -> ZeroShot:
    """Compare the nearest categories with the labels; a file that carries several is right with any of them."""
    result = ZeroShot()
    for file in files:
        truth = [name for name in palette.names if name in file.labels]
        if not truth:
            continue
        answers = [name for name, _ in nearest_texts(file.vector, palette)[:TOP]]
        result.files += 1
        result.first += answers[0] in truth
        result.among_top += any(answer in truth for answer in answers)
        if answers[0] not in truth:
            result.mistaken[" or ".join(truth), answers[0]] += 1
    return result


def print_zero_shot(result: ZeroShot) -> None:
    """Print the accuracy, and what is taken for what, the most frequent first."""
    if not result.files:
        print("\nzero-shot: no file carries one of the categories")
        return
    first, among_top = result.first / result.files, result.among_top / result.files
    print(f"\nzero-shot over {result.files} files: top 1 {first:.1%}, top {TOP} {among_top:.1%}")
    for (label, answer), count in result.mistaken.most_common():
        print(f"{count:6}  {label} taken for {answer}")


# ------------------------------------------------------------------------------------------------------ the program


def calibrate(options: argparse.Namespace, config: Config) -> int:
    cache = ModelCache(config.model_cache)
    weights = identify_weights(config.checkpoint, cache)
    if not weights.is_published and not options.anyway:
        print(
            f"{printable(config.checkpoint)} is no published checkpoint: its numbers would mean nothing, so "
            "there is nothing to calibrate; give one of " + ", ".join(CHECKPOINTS) + ", or --anyway",
            file=sys.stderr,
        )
        return UsageError.exit_code
    model = load_clap(weights, config)
    categories, tags = (embed_palette(model, told) for told in (config.category_prompts, config.tags))
    files = labelled(model, Path(os.path.realpath(options.folder)), options.labels, config)
    print(f"{len(files)} files, labels by {options.labels}, checkpoint {printable(weights.name)}")
    if not weights.is_published:
        print("NO PUBLISHED CHECKPOINT: these numbers show that the script runs, and mean nothing.")
    for kind, palette in (("category", categories), ("tag", tags)):
        print_cosines(kind, palette, files)
    print_zero_shot(zero_shot(categories, files))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of audio; it is read, not touched")
    parser.add_argument("--checkpoint", default=argparse.SUPPRESS, help="as for the program")
    parser.add_argument("--model-cache", type=Path, default=argparse.SUPPRESS, help="as for the program")
    parser.add_argument("--config", type=Path, default=None, help="the settings with the tags and prompts")
    parser.add_argument("--labels", choices=tuple(LABELS), default="names", help="where the labels are")
    parser.add_argument("--anyway", action="store_true", help="also with a checkpoint that is not published")
    options = parser.parse_args(argv)
    flags = {name: value for name, value in vars(options).items() if name in CONFIG_FIELDS}
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return calibrate(options, load_config(options.config, flags))
    except PrepareError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
