"""The README says what the program does: its transcript, its tables, its snippets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import demo
import prepare_dataset_sql as product
from conftest import REPOSITORY, Workplace

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
VARIABLE = (
    (r"\d+\.\d s, \d+\.\d files/s", "# s, # files/s"),
    (r'("quarantined_at"): ".*"', r"\1"),
    (r'("mtime_ns"): \d+', r"\1"),
    (r'("run_id"): ".*"', r"\1"),
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
    assert list(settings) == list(product.CONFIG_FIELDS)
    for name, config_field in product.CONFIG_FIELDS.items():
        default, text = settings[name]
        assert text == config_field.metadata["help"]
        if name not in ("input", "categories"):
            assert default.replace("null", "None") == product._default_text(name)


def test_the_table_of_columns_is_the_schema(workplace: Workplace) -> None:
    workplace.run()
    columns = [row["name"] for row in workplace.rows("PRAGMA table_info(stems)")]
    part = README.partition("One row a stem in `stems`")[2].partition("`quarantined` holds")[0]
    named = [
        name
        for line in part.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert named == columns


def test_the_table_of_exit_codes_is_complete() -> None:
    part = README.partition("## Exit codes")[2].partition("##")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", part, re.MULTILINE)}
    classes = product.PrepareError.__subclasses__()
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
    others = {"--strict", *re.findall(r'"(--[a-z-]+)"', benchmarks)}  # mypy's, and the benchmarks' own
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - others <= known
