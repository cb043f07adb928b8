"""Find stems in the database of prepare_dataset_sql.py, by words, by sound and by their properties.

    python search_dataset_sql.py "dark punchy kick"
    python search_dataset_sql.py --like kick.wav --category kick --seconds 0.2-2
    python search_dataset_sql.py --serve

    database ──► sidecar ──► filter ──► rank ──► print, write, copy
     (read only)  (kept beside  (SQL)     (cosine and names,
                   the database)           fused)

It only reads the database. It copies what it needs to a folder beside it, and copies it again when the database has
changed. A preparer may run at the same time.

--serve opens a page in the browser instead, where stems are also heard, rated and corrected. The page writes ratings
and corrections to the database.

Exit codes: 0 done, also if nothing was found, or if Ctrl-C ended --serve · 1 done, but some files could not be copied ·
2 usage, or no database · 3 no CLAP weights · 4 stopped (not writable, disk full, broken installation) ·
130 interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":
    from stem_dataset.startup import prepare_process

    prepare_process("interrupted")

import argparse
import contextlib
import difflib
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from stem_dataset import __version__
from stem_dataset.config import Config, flag_options, load_config, path_if_given, refuse_nothing
from stem_dataset.errors import RunStopped, UsageError, with_remedy
from stem_dataset.logs import add_level_flags, exit_code_of, log, log_to_console, printable
from stem_dataset.progress import Progress
from stem_dataset.search.ask import Given, filters_of, note_on_text, query_vector, reference_of, sound_of, unwanted_of
from stem_dataset.search.copying import copy_originals
from stem_dataset.search.library import Hit, Library
from stem_dataset.search.near_duplicates import near_pairs
from stem_dataset.search.output import (
    COLUMNS,
    csv_of,
    json_of,
    json_of_pairs,
    m3u_of,
    pair_lines,
    paths_of,
    print_bytes,
    rows_of_pairs,
    table,
    terminal_width,
    values_of,
    write_file,
)
from stem_dataset.search.query import Filters, key_of, range_of, rating_of, tempo_of
from stem_dataset.search.query_vectors import QueryVectors
from stem_dataset.search.sidecar import open_sidecar
from stem_dataset.signals import StopSignals
from stem_dataset.startup import open_standard_streams, read_names_as_utf8

TOP = 20
NEAR_COSINE = 0.98
# The settings that a search shares with the preparer.
SETTINGS = ("database", "checkpoint", "trust_checkpoint", "device", "model_cache")
PAGE_OPTIONS = ("serve", "port", "no_open", "level", "config", *SETTINGS)
# Below this, a bar would only flicker.
ROWS_WITH_A_BAR = 20_000


class Search:
    """One search; read `run` first."""

    def __init__(self, options: argparse.Namespace, config: Config, library: Library, progress: Progress) -> None:
        self.options = options
        self.config = config
        self.library = library
        self.progress = progress
        self.query_vectors = QueryVectors(library.embedding_model, reference_of(library), config)
        self.filters = filters_given(options)
        self.count = options.top or max(1, len(library.vectors))

    def run(self) -> int:
        """Search, show what was found, and return the exit code."""
        others = self.library.rows_of_other_models()
        if others and self.needs_vectors:
            log.warning("%d rows have vectors of another model, which are not compared", others)
        if self.options.near_duplicates is not None:
            return self._near_duplicates(self.options.near_duplicates)
        hits = self._hits()
        if not hits:
            self._say_nothing_was_found()
        self._print(lambda: json_of(hits), lambda: table(hits, terminal_width()), hits)
        return self._write(hits, lambda: csv_of(map(values_of, hits), COLUMNS))

    @property
    def needs_vectors(self) -> bool:
        """Whether vectors are compared at all."""
        options = self.options
        return bool(options.text or options.like or options.unlike or options.near_duplicates is not None)

    def _hits(self) -> list[Hit]:
        options = self.options
        if options.text is None and not options.like and not options.unlike:
            return self.library.by_path(self.filters, self.count)
        kept = self.library.filtered(self.filters)
        if not len(kept):
            # CLAP need not be loaded.
            return []
        understands_texts = self.query_vectors.understands_texts
        wanted = [sound_of(self.library, name, "--like") for name in options.like]
        unwanted = [unwanted_of(self.library, name, understands_texts) for name in options.unlike]
        note = note_on_text(self.query_vectors, options.text, bool(wanted or unwanted))
        if note is not None:
            log.warning("%s", note)
        vector = query_vector(self.query_vectors, options.text, wanted, unwanted)
        return self.library.search(kept, options.text, vector, self.count)

    def _near_duplicates(self, least: float) -> int:
        kept = self.library.comparable(self.library.filtered(self.filters))
        with self.progress.over(len(kept)):

            def advance(rows: int) -> None:
                self.progress.signals.check()
                self.progress.advance(rows)

            pairs, total = near_pairs(self.library.vectors, kept, least, self.count, advance)
        found = self.library.hits([position for _, *pair in pairs for position in pair])
        hit_pairs = [(pairs[place][0], found[2 * place], found[2 * place + 1]) for place in range(len(pairs))]
        shown = f", the nearest {len(pairs)} shown" if total > len(pairs) else ""
        log.info("%d pairs with a cosine of at least %g%s; listen before you delete any", total, least, shown)
        hits = list({hit.id: hit for hit in found}.values())
        names = ["pair", *COLUMNS]
        self._print(
            lambda: json_of_pairs(hit_pairs),
            lambda: pair_lines(hit_pairs, terminal_width()),
            hits,
        )
        return self._write(hits, lambda: csv_of(rows_of_pairs(hit_pairs), names))

    def _print(self, json_text: Callable[[], str], lines: Callable[[], list[str]], hits: Sequence[Hit]) -> None:
        options = self.options
        if options.paths:
            print_bytes(paths_of(hits, b"\0" if options.null else b"\n"))
        elif options.json:
            print_bytes(json_text().encode("utf-8") + b"\n")
        elif hits:
            print_bytes("".join(f"{line}\n" for line in lines()).encode(sys.stdout.encoding, "replace"))

    def _write(self, hits: Sequence[Hit], csv_content: Callable[[], bytes]) -> int:
        """Write the files that were asked for, and return the exit code."""
        options = self.options
        if options.csv is not None:
            _write_output("--csv", options.csv, csv_content())
        if options.m3u is not None:
            _write_output("--m3u", options.m3u, m3u_of(hits))
        if options.copy_to is None:
            return 0
        return 1 if copy_originals(hits, options.copy_to, self.progress.signals.check) else 0

    def _say_nothing_was_found(self) -> None:
        log.info("nothing found among %d stems", len(self.library.vectors))
        known = self.library.values_of("category")
        for category in self.filters.categories:
            if category not in known:
                nearest = difflib.get_close_matches(category, known, n=1, cutoff=0)
                text = f"; did you mean {printable(nearest[0])}?" if nearest else ""
                log.info("no stem has the category %s%s", printable(category), text)


def _write_output(flag: str, path: Path, content: bytes) -> None:
    """Write the file that `flag` names; raises `UsageError` if its folder does not exist, and else `RunStopped`."""
    try:
        write_file(path, content)
    except OSError as error:
        named = f"{flag} {printable(path)}: cannot be written"
        if not path.parent.is_dir():
            raise UsageError(f"{named}: there is no folder {printable(path.parent)}") from None
        # The error names the file that is written first, which the user does not know.
        raise RunStopped(f"{named}: {with_remedy(OSError(error.errno, error.strerror))}") from None


def filters_given(options: argparse.Namespace) -> Filters:
    """Return the filters of a command line; raises `UsageError` for a flag that changes nothing."""
    if options.half_double and options.bpm is None:
        raise UsageError("--half-double: needs --bpm")
    if options.related and options.key is None:
        raise UsageError("--related: needs --key")
    return filters_of(
        Given(
            categories=tuple(options.category),
            tempo=options.bpm,
            half_double=options.half_double,
            key=options.key,
            related=options.related,
            is_loop=options.is_loop,
            seconds=options.seconds,
            folders=tuple(options.folder),
            rating=options.rating,
            is_ok=options.ok,
        )
    )


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        description="Find stems in the database of prepare_dataset_sql.py, by words, by sound and by their properties.",
        epilog="Exit codes: 0 done, 1 some files could not be copied, 2 usage or no database, 3 no CLAP weights, "
        "4 stopped, 130 interrupted.",
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help='what to find, as "dark punchy kick"')
    ask = parser.add_argument_group("search by sound")
    ask.add_argument("--like", action="append", default=[], metavar="FILE|ID", help="a stem, or any audio file")
    ask.add_argument(
        "--unlike", action="append", default=[], metavar="FILE|ID|TEXT", help="what it should not sound like"
    )
    _add_filters(parser.add_argument_group("filters"))
    _add_outputs(parser.add_argument_group("output"))
    parser.add_argument(
        "--near-duplicates",
        nargs="?",
        type=cosine_given,
        const=NEAR_COSINE,
        default=None,
        metavar="COSINE",
        help=f"list pairs of stems with at least this cosine (default: {NEAR_COSINE}); nothing is deleted",
    )
    page = parser.add_argument_group("page in the browser")
    page.add_argument("--serve", action="store_true", help="serve a page to this computer until Ctrl-C")
    page.add_argument("--port", type=port_given, metavar="N", help="its port (default: a free one)")
    page.add_argument("--no-open", action="store_true", help="with --serve: do not open the browser")
    for name in SETTINGS:
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, **flag_options(name))
    parser.add_argument(
        "--config", type=path_if_given, metavar="FILE", default=None, help="settings (default: ./config.yaml)"
    )
    add_level_flags(parser)
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _add_filters(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--category", action="append", default=[], metavar="NAME", help="repeat it for several")
    group.add_argument("--bpm", type=tempo_of, metavar="BPM|FROM-TO", help="tempo, such as 124 or 120-130")
    group.add_argument("--half-double", action="store_true", help="with --bpm: also half and twice that tempo")
    group.add_argument("--key", type=key_of, metavar="KEY", help="as C, Am, F#m or Bb")
    group.add_argument(
        "--related", action="store_true", help="with --key: also the relative key and the neighbours of both"
    )
    kind = group.add_mutually_exclusive_group()
    kind.add_argument("--loops", dest="is_loop", action="store_const", const=True, help="loops only")
    kind.add_argument("--one-shots", dest="is_loop", action="store_const", const=False, help="one-shots only")
    group.add_argument("--seconds", type=range_of, metavar="FROM-TO", help="length, as 0.2-2, or 2- for 2 and more")
    group.add_argument(
        "--folder", action="append", default=[], metavar="GLOB", help="in or below a matching folder, such as 'Drums/*'"
    )
    group.add_argument("--rating", type=rating_of, metavar="N", help="your rating is N or more")
    group.add_argument("--ok", action="store_true", help="without quality issues")


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--top", type=count_given, default=TOP, metavar="N", help=f"how many (default: {TOP}; 0: all)")
    how = group.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON")
    how.add_argument("--paths", action="store_true", help="print the paths alone, one per line")
    group.add_argument("-0", "--null", action="store_true", help="with --paths: end each with NUL, as for xargs -0")
    group.add_argument("--csv", type=path_if_given, metavar="FILE", help="also write a table")
    group.add_argument("--m3u", type=path_if_given, metavar="FILE", help="also write a playlist")
    group.add_argument("--copy-to", type=path_if_given, metavar="DIR", help="also copy the originals there")


def count_given(text: str) -> int:
    """Parse the value of --top."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: give a number, or 0 for all")
    return int(text)


def port_given(text: str) -> int:
    """Parse the value of --port."""
    if not (text.isdecimal() and 0 <= int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r}: give a port from 1 to 65535, or 0 for a free one")
    return int(text)


def cosine_given(text: str) -> float:
    """Parse the value of --near-duplicates."""
    try:
        cosine = float(text)
    except ValueError:
        cosine = math.nan
    if not 0 < cosine <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a cosine over 0 and up to 1")
    return cosine


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    # Under pythonw this process has none.
    open_standard_streams()
    with StopSignals() as signals:
        try:
            options = _options_given(argv)
        except SystemExit as stop:  # --help, --version, or a usage error
            return int(stop.code or 0)
        with log_to_console(options.level):
            return run_safely(options, signals)


def _options_given(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        text = f"unrecognized arguments: {' '.join(unknown)}"
        if options.text is not None and not any(word.startswith("-") for word in unknown):
            text += f'; put words in quotes, as "{" ".join([options.text, *unknown])}"'
        parser.error(text)
    return options


def run_safely(options: argparse.Namespace, outer_signals: StopSignals) -> int:
    """Run the search, log any error, and return the exit code."""
    try:
        with StopSignals(outer_signals) as signals:
            return _run_options(options, signals)
    except Exception as error:
        return exit_code_of(error)


def _run_options(options: argparse.Namespace, signals: StopSignals) -> int:
    for flag in ("config", "csv", "m3u", "copy_to"):
        refuse_nothing(flag.replace("_", "-"), getattr(options, flag))
    _refuse_contradictions(options)
    config = load_config(options.config, {name: value for name, value in vars(options).items() if name in SETTINGS})
    progress = Progress(config, options.level <= logging.INFO, signals)
    reading = Reading(progress)
    if options.serve:
        # Starting it takes half a second, which no other search needs.
        from stem_dataset.page.serve import serve

        with reading:
            return serve(config, options.port or 0, not options.no_open, signals, reading.tick)
    with reading, open_sidecar(config.database, reading.tick) as sidecar:
        reading.close()
        return Search(options, config, Library(sidecar), progress).run()


def _refuse_contradictions(options: argparse.Namespace) -> None:
    if options.null and not options.paths:
        raise UsageError("-0: needs --paths")
    if options.text is not None and not options.text.strip():
        raise UsageError("the text is empty, like an unset shell variable: give a text, or leave it out")
    for name in ("like", "unlike", "category", "folder"):
        if any(not value.strip() for value in getattr(options, name)):
            raise UsageError(f"--{name}: is empty, like an unset shell variable: give a value, or leave it out")
    if options.near_duplicates is not None and (options.text or options.like or options.unlike):
        raise UsageError(
            "--near-duplicates: compares all stems that pass the filters: leave text, --like, --unlike out"
        )
    if not options.serve and (options.port is not None or options.no_open):
        raise UsageError("--port and --no-open: need --serve")
    asked = [name for name, usual in vars(build_parser().parse_args([])).items() if getattr(options, name) != usual]
    asked = [name for name in asked if name not in PAGE_OPTIONS]
    if options.serve and asked:
        raise UsageError(f"--serve: leave the search out ({', '.join(asked)}): the page asks for it")


class Reading:
    """Shows a bar while the sidecar is made from a large database."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bar: contextlib.ExitStack = contextlib.ExitStack()
        self.done = 0

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()

    def tick(self, done: int, rows: int) -> None:
        """Show the rows that are read; raises `Interrupted` after Ctrl-C."""
        self.progress.signals.check()
        if rows < ROWS_WITH_A_BAR or not done:
            return
        if not self.done:
            self.bar.enter_context(self.progress.over(rows))
            self.progress.say("reading the database, once after each change")
        self.progress.advance(done - self.done)
        self.done = done
        if done == rows:
            self.close()


def command() -> NoReturn:
    """Run this process's command line; the installed `search-dataset-sql` calls this."""
    read_names_as_utf8()
    sys.exit(main())


if __name__ == "__main__":
    command()
