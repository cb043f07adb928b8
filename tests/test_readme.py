"""The README and docs/ say what the program does: transcript, tables, queries, snippets, names and links."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import demo
import prepare_dataset_sql as product
import search_dataset_sql
from pages import DATABASE, DOCS, PAGES, QUERIES, README, anchors, first_cells, links, page, section
from prose import sentences, words
from stem_dataset.config import CONFIG_FIELDS, Config, default_text
from stem_dataset.datatypes import SourceFormat
from stem_dataset.errors import PrepareError
from stem_dataset.music.describe import quality_issues
from workplace import REPOSITORY, Workplace

FEATURES = section(DATABASE, "The keys of `features`")
VARIABLE = (
    (r"\d+\.\d s, \d+\.\d files/s", "# s, # files/s"),
    (r'("quarantined_at"): ".*"', r"\1"),
    (r'("mtime_ns"): \d+', r"\1"),
    (r'("run_id"): ".*"', r"\1"),
    (r"--precision bf16 is about twice as fast on this processor.*\n", ""),  # only some processors have bf16
    (r"stand-in@[0-9a-f]{12}", "stand-in@#"),  # the stand-in's weights depend on the processor's arithmetic
    (r"\d+ of \d+ files \(\d+ %\), .*\n", ""),  # a line every 30 seconds
)


def masked(transcript: str) -> list[list[str]]:
    """Return the commands' blocks, without times, rates and ids, and with their lines sorted: workers race."""
    for pattern, replacement in VARIABLE:
        transcript = re.sub(pattern, replacement, transcript)
    return [sorted(block.split("\n")) for block in transcript.strip().split("\n\n")]


def test_the_transcript_is_what_the_demo_prints() -> None:
    output = REPOSITORY / "build" / "demo.txt"
    assert output.exists(), "run `make demo` first: it keeps what it prints there"
    block = README.partition(demo.MARKER)[2].split("```", 2)[1]
    assert masked(block) == masked(output.read_text(encoding="utf-8")), "`make readme` renews the transcript"


def test_the_settings_table_is_config() -> None:
    page_text = page("docs/settings.md").partition("## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .*? \| (.*?) \|$", page_text, re.MULTILINE)
    settings = {name: (default.strip("`"), text) for name, default, text in rows}
    assert list(settings) == list(CONFIG_FIELDS)
    for name, config_field in CONFIG_FIELDS.items():
        default, text = settings[name]
        assert text == config_field.metadata["help"]
        if name not in ("input", "categories"):
            assert default.replace("null", "None") == default_text(name)


def test_the_table_of_columns_is_the_schema(workplace: Workplace) -> None:
    workplace.run()
    columns = [row["name"] for row in workplace.rows("PRAGMA table_info(stems)")]
    assert first_cells(section(DATABASE, "The table `stems`")) == columns
    main_columns = first_cells(section(README, "What comes out"))
    assert len(main_columns) > 10
    assert set(main_columns) <= set(columns)


def test_the_page_on_the_database_names_every_table(workplace: Workplace) -> None:
    workplace.run()
    tables = {row["name"] for row in workplace.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
    named = re.findall(r"^- `(\w+)`", section(DATABASE, "The other tables"), re.MULTILINE)
    assert {"stems", *named} == tables


@pytest.fixture(scope="module")
def fixtures(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A run on the 74 fixtures, with categories as the stand-in leaves them, and with tags of the fake model."""
    place = Workplace(tmp_path_factory.mktemp("readme"))
    shutil.copytree(library / "stems", place.input)
    place.run(category_prompts={})
    return place


def test_the_table_of_features_has_the_keys_of_every_row(fixtures: Workplace) -> None:
    keys = first_cells(FEATURES)
    assert len(set(keys)) == len(keys)
    for row in fixtures.rows():
        assert set(json.loads(row["features"])) == set(keys), row["original_file"]


def test_the_table_of_features_has_every_quality_issue() -> None:
    worst = SourceFormat(48_000, 2, 1, truncated=True, clipped_share=1, dc_offset=1, dead_channel=True)
    levels = (
        {"peak_dbfs": None, "loudness_lufs": None, "rms": 0.0},
        {"peak_dbfs": -99.0, "loudness_lufs": -99.0, "rms": 1e-6},
    )
    issues = {issue for level in levels for issue in quality_issues(worst, level, Config())}
    line = next(line for line in FEATURES.splitlines() if line.startswith("| `quality_issues`"))
    assert set(re.findall(r"`(\w+)`", line.split("|")[2])) == issues


def ask(place: Workplace, query: str) -> list[str]:
    """Return what sqlite3 prints for a query of the docs, whose /music is the folder of `place`."""
    rows = place.rows(query.replace("/music", os.path.realpath(place.folder)))
    return ["|".join("" if value is None else str(value) for value in row.values()) for row in rows]


def test_the_queries_answer_what_the_page_shows(fixtures: Workplace) -> None:
    shown = re.findall(r"```sql\n([^`]+)```\n```\n([^`]+)```", DATABASE)
    assert len(shown) == 3
    for query, answer in shown:
        assert ask(fixtures, query) == answer.splitlines(), query


def test_the_query_for_tags_finds_the_dark_kicks_and_no_other(fixtures: Workplace) -> None:
    (query,) = (query for query in QUERIES if "json_each(tags)" in query)
    rows = fixtures.rows()
    dark = [row["original_file"] for row in rows if row["category"] == "kick" and "dark" in json.loads(row["tags"])]
    assert 0 < len(dark) < sum(row["category"] == "kick" for row in rows)
    assert sorted(ask(fixtures, query)) == dark


def test_the_queries_for_kicks_leave_out_a_clipped_one(fixtures: Workplace, tmp_path: Path) -> None:
    place = Workplace(Path(shutil.copytree(fixtures.folder, tmp_path / "copy")))
    place.change("UPDATE stems SET features = json_set(features, '$.quality_issues', json('[\"clipped\"]'))")
    queries = [query for query in QUERIES if "'kick'" in query]
    assert len(queries) == 2
    for query in queries:
        assert ask(fixtures, query)
        assert ask(place, query) == []


def test_the_queries_show_what_holds() -> None:
    assert [query for query in QUERIES if "FROM library" not in query or "FROM stems" in query] == []


def test_the_table_of_the_view_has_its_columns(workplace: Workplace) -> None:
    workplace.run()
    columns = [row["name"] for row in workplace.rows("PRAGMA table_info(library)")]
    assert first_cells(section(DATABASE, "The view `library`")) == columns


def test_the_insert_that_the_page_shows_corrects_a_stem(fixtures: Workplace, tmp_path: Path) -> None:
    place = Workplace(Path(shutil.copytree(fixtures.folder, tmp_path / "copy")))
    shown = re.search(r"\"(INSERT[^\"]+)\"", section(DATABASE, "Your corrections"))
    assert shown
    name = place.rows("SELECT file_name FROM library WHERE bpm IS NOT NULL")[0]["file_name"]
    place.change(shown[1].replace("groove.wav", name))
    assert {"file_name": name, "bpm": 87.0} in place.rows("SELECT file_name, bpm FROM library WHERE bpm = 87")


def test_the_table_of_exit_codes_is_complete() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section(README, "Exit codes"), re.MULTILINE)}
    classes = PrepareError.__subclasses__()
    assert codes == {0, 1} | {error.exit_code for error in classes}


def test_the_snippet_reads_a_database_with_a_name_that_is_not_utf_8(workplace: Workplace, library: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("other systems' file names are always Unicode")
    for number, source in enumerate(sorted((library / "stems" / "Drums").rglob("*.wav"))[:5]):
        name = os.fsdecode(b"kick \xff%d.wav" % number)
        (workplace.input / name).write_bytes(source.read_bytes())
    workplace.run()
    snippet = DATABASE.partition("```python\n")[2].partition("```")[0]
    assert snippet == demo.NEIGHBOURS
    snippet = snippet.replace("processed_database/stems.db", str(workplace.database))
    result = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"1.000  '{workplace.input}/kick \\udcff0.wav'"


@pytest.mark.parametrize("name", [name for name in PAGES if name != "CHANGELOG.md"])
def test_every_flag_is_a_real_one(name: str) -> None:
    parsers = (product.build_parser(), search_dataset_sql.build_parser())
    known = {flag for parser in parsers for flag in re.findall(r"--[a-z][a-z0-9-]+", parser.format_help())}
    benchmarks = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "benchmarks").glob("*.py"))
    others = {"--strict", "--nthreads", "--nworkers", "--minimal"}  # mypy's, Dask's and git's
    others |= set(re.findall(r'"(--[a-z-]+)"', benchmarks))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page(name))) - others <= known


def test_the_page_on_settings_has_every_flag_that_is_no_setting() -> None:
    parser = product.build_parser()
    parser.prog = "program"  # in a worker of pytest-xdist it is "-c"
    flags = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", parser.format_help()))
    flags -= {f"--{name.replace('_', '-')}" for name in CONFIG_FIELDS} | {"-h"}
    rows = section(page("docs/settings.md"), "Flags that are no settings")
    cells = [line.split("|")[1] for line in rows.splitlines() if line.startswith("| `-")]
    assert {flag for cell in cells for flag in re.findall(r"`(--?[a-z-]+)", cell)} == flags


def test_the_page_on_the_search_has_every_flag() -> None:
    parser = search_dataset_sql.build_parser()
    flags = {flag for action in parser._actions for flag in action.option_strings}
    shared = {f"--{name.replace('_', '-')}" for name in search_dataset_sql.SETTINGS}
    others = {"-h", "--help", "-v", "-q", "--version", "--config", "--null"}
    named = set(re.findall(r"`(--?[a-z0-9][a-z0-9-]*)", page("docs/search.md")))
    named |= set(re.findall(r" (--[a-z][a-z-]*)", page("docs/search.md")))
    assert flags - shared - others <= named


# -- the pages as a whole ---------------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 200


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file_and_an_anchor(name: str) -> None:
    for link in links(page(name)):
        file, _, anchor = link.partition("#")
        target = (REPOSITORY / name).parent / file if file else REPOSITORY / name
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_index_lists_every_page() -> None:
    listed = re.findall(r"^\| \[[\w.-]+\]\(([\w.-]+)\)", page("docs/index.md"), re.MULTILINE)
    assert sorted([*listed, "index.md"]) == [Path(name).name for name in DOCS]


@pytest.mark.parametrize("name", PAGES)
def test_the_sentences_are_short(name: str) -> None:
    lengths = [words(sentence) for sentence in sentences(page(name))]
    assert 7 <= statistics.median(lengths) <= 17
    assert sum(length > 30 for length in lengths) <= len(lengths) / 10


def test_a_sentence_is_counted_as_a_reader_does() -> None:
    text = "# Not this one\n\nOne `a b c` two\nthree. Four [five six](x.md)!\n\n- Seven, e.g. eight\n\n```\nno\n```\n"
    assert [words(sentence) for sentence in sentences(text)] == [4, 3, 3]


# -- the map of the package -------------------------------------------------------------------------------------------

DEVELOP = page("docs/develop.md")


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_a_page_names_is_there(name: str) -> None:
    files = re.findall(r"`((?:stem_dataset|tests|fixtures|benchmarks)/[\w/.]*)[ `]", page(name))
    assert [file for file in files if not (REPOSITORY / file).exists()] == []


def test_the_map_has_every_module_of_the_package() -> None:
    on_the_map = {Path(file).name for file in re.findall(r"`stem_dataset/([\w.]+)", section(DEVELOP, "The map"))}
    package = REPOSITORY / "stem_dataset"
    modules = {path.name for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert on_the_map == modules - {"__init__.py"}


def names_in(path: Path) -> set[str]:
    """Return the functions, classes, constants and fields that a file of Python defines."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@pytest.mark.parametrize(
    "heading", ["One file's way", "How to add a decoder", "How to add a setting", "How to add a column"]
)
def test_every_name_on_the_way_is_one_of_the_program(heading: str) -> None:
    text = section(DEVELOP, heading)
    files = [REPOSITORY / "prepare_dataset_sql.py", *(REPOSITORY / "stem_dataset").rglob("*.py")]
    known = set().union(*map(names_in, [*files, REPOSITORY / "tests" / "support" / "records.py"]))
    named = {part for name in re.findall(r"`([A-Za-z_][\w.]*)`", text) if "/" not in name for part in name.split(".")}
    files_named = {"config", "yaml", "requirements", "txt", "pyproject", "toml"}
    assert len(named) > 3
    assert sorted(named - known - files_named) == []


def test_every_name_is_in_the_file_beside_it() -> None:
    pairs = re.findall(r"`(?:\w+\.)?(\w+)`\s+(?:in|\()\s*`?((?:stem_dataset|tests)/[\w/.]+\.py|the script)", DEVELOP)
    assert len(pairs) > 20
    for name, file in pairs:
        path = "prepare_dataset_sql.py" if file == "the script" else file
        assert name in names_in(REPOSITORY / path), (name, file)
