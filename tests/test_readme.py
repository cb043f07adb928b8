"""The README says what the program does: its transcript, its tables, its snippets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import demo
import prepare_dataset_sql as product
from stem_dataset.config import CONFIG_FIELDS, Config, default_text
from stem_dataset.datatypes import SourceFormat
from stem_dataset.errors import PrepareError
from stem_dataset.music.describe import quality_issues
from workplace import REPOSITORY, Workplace

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
FEATURES = README.partition("The keys of `features`")[2].partition("Evidence is asked")[0]
QUERIES = re.findall(r"```sql\n([^`]+)```", README)
VARIABLE = (
    (r"\d+\.\d s, \d+\.\d files/s", "# s, # files/s"),
    (r'("quarantined_at"): ".*"', r"\1"),
    (r'("mtime_ns"): \d+', r"\1"),
    (r'("run_id"): ".*"', r"\1"),
    (r"--precision bf16 is about twice as fast on this processor.*\n", ""),  # only some processors have bf16
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
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .*? \| (.*?) \|$", README, re.MULTILINE)
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
    part = README.partition("One row a stem in `stems`")[2].partition("The keys of `features`")[0]
    assert first_cells(part) == columns


def first_cells(part: str) -> list[str]:
    """Return the names in the first column of the tables in a part of the README."""
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return [name for cell in rows for name in re.findall(r"`(\w+)`", cell)]


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
    """Return what sqlite3 prints for a query of the README, whose /music is the folder of `place`."""
    rows = place.rows(query.replace("/music", os.path.realpath(place.folder)))
    return ["|".join("" if value is None else str(value) for value in row.values()) for row in rows]


def test_the_queries_answer_what_the_readme_shows(fixtures: Workplace) -> None:
    shown = re.findall(r"```sql\n([^`]+)```\n```\n([^`]+)```", README)
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


def test_the_queries_ask_for_keys_of_features_alone() -> None:
    keys = [key for query in QUERIES for key in re.findall(r"\$\.(\w+)", query)]
    assert len(keys) > 10
    assert set(keys) <= set(first_cells(FEATURES))  # json_extract gives NULL for any other, and no error


def test_the_table_of_exit_codes_is_complete() -> None:
    part = README.partition("## Exit codes")[2].partition("##")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", part, re.MULTILINE)}
    classes = PrepareError.__subclasses__()
    assert codes == {0, 1} | {error.exit_code for error in classes}


def test_the_snippet_reads_a_database_with_a_name_that_is_not_utf_8(workplace: Workplace, library: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("other systems' file names are always Unicode")
    for number, source in enumerate(sorted((library / "stems" / "Drums").rglob("*.wav"))[:5]):
        name = os.fsdecode(b"kick \xff%d.wav" % number)
        (workplace.input / name).write_bytes(source.read_bytes())
    workplace.run()
    snippet = README.partition("```python\n")[2].partition("```")[0]
    assert snippet == demo.NEIGHBOURS
    snippet = snippet.replace("processed_database/stems.db", str(workplace.database))
    result = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"1.000  '{workplace.input}/kick \\udcff0.wav'"


def test_every_flag_is_a_real_one() -> None:
    known = set(re.findall(r"--[a-z][a-z-]+", product.build_parser().format_help()))
    benchmarks = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "benchmarks").glob("*.py"))
    others = {
        "--strict",
        "--nthreads",
        "--nworkers",
        *re.findall(r'"(--[a-z-]+)"', benchmarks),
    }  # mypy's, Dask's, and the benchmarks' own
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - others <= known
