"""How right the rules that read names are: python benchmarks/bench_names.py LABELS.tsv [PATHS.tsv]

LABELS.tsv is a table that a person made by reading paths: the columns repo, path, categories, bpm, key and is_loop,
where `|` separates answers that are all right, and `unknown` and `null` mean that saying nothing is right. PATHS.tsv
has the columns repo and path. Prints, for each field, the share of the answers that are right (precision) and the share
of the answers that were due and were given (recall); with PATHS.tsv also how many files each category catches. --misses
lists each wrong or missing answer, --caught the files that one category catches (`none`: those without any). Only names
are read, so a tempo counts here if the names state it without the audio.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY)]

from stem_dataset.config import load_config  # noqa: E402
from stem_dataset.datatypes import NameFacts  # noqa: E402
from stem_dataset.music.filenames import read_name  # noqa: E402

CONFIG = load_config(REPOSITORY / "config.yaml", {})
ROOT = "/library"
NOTHING = frozenset(("null", "unknown"))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    for field, answer in FIELDS.items():
        _print_score(field, answer, _rows(arguments.labels), arguments.misses)
    if arguments.paths:
        _print_caught(_rows(arguments.paths), arguments.caught)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("labels", type=Path)
    parser.add_argument("paths", type=Path, nargs="?")
    parser.add_argument("--misses", action="store_true")
    parser.add_argument("--caught", metavar="CATEGORY")
    return parser


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _read(path: str) -> NameFacts:
    return read_name(f"{ROOT}/{path}", ROOT, CONFIG.categories)


def _bpm(name: NameFacts) -> str | None:
    return f"{name.stated_bpm:g}" if name.stated_bpm is not None else None


def _is_loop(name: NameFacts) -> str | None:
    return str(name.is_loop).lower() if name.is_loop is not None else None


FIELDS: dict[str, Callable[[NameFacts], str | None]] = {
    "categories": lambda name: name.category,
    "bpm": _bpm,
    "key": lambda name: name.key,
    "is_loop": _is_loop,
}


def _print_score(
    field: str, answer: Callable[[NameFacts], str | None], rows: list[dict[str, str]], lists_misses: bool
) -> None:
    given = given_right = due = due_right = 0
    misses = []
    for row in rows:
        right = set(row[field].split("|"))
        answered = answer(_read(row["path"]))
        is_right = answered in right
        given += answered is not None
        given_right += is_right
        due += not right & NOTHING
        due_right += is_right and not right & NOTHING
        if not is_right and not (answered is None and right & NOTHING):
            misses.append(f"    {row['path']}: {answered}, not {row[field]}")
    print(
        f"{field}: precision {_share(given_right, given)}, recall {_share(due_right, due)}",
        *(misses if lists_misses else []),
        sep="\n",
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} % of {whole}" if whole else "none"


def _print_caught(rows: list[dict[str, str]], listed: str | None) -> None:
    caught = [(_read(row["path"]).category or "none", row["path"]) for row in rows]
    print(f"the {len(rows)} names of the full list:")
    for category, count in Counter(category for category, _ in caught).most_common():
        print(f"    {category}: {count}")
    for category, path in caught:
        if category == listed:
            print(f"        {path}")


if __name__ == "__main__":
    sys.exit(main())
