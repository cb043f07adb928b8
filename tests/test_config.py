"""Settings: where they come from, which beats which, and what is said about a wrong one."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

import prepare_dataset_sql as product
from config_helpers import config_file
from patching import replace_name
from prepare_dataset_sql import main
from stem_dataset import __version__
from stem_dataset.config import CONFIG_FIELDS, CONFIG_PATHS, Config, default_of, has_flag, load_config
from stem_dataset.errors import UsageError
from workplace import REPOSITORY, Workplace

CONFIG_YAML = REPOSITORY / "config.yaml"


SETTINGS_WITH_A_FLAG = [name for name in CONFIG_FIELDS if has_flag(name)]


LISTS = ("categories", "tags", "category_prompts")  # whose defaults are in config.yaml alone


OTHER_FLAGS = (
    "--config --no-stems --dry-run --report --restore-quarantine --re-embed --verify-vectors --version".split()
)


def squeezed(text: str) -> str:
    """Return `text` without white space: argparse breaks lines at spaces and hyphens."""
    return "".join(text.split())


# -- the copies of one fact -------------------------------------------------------------------------------------------


def test_config_yaml_has_exactly_the_fields_and_their_defaults() -> None:
    settings = yaml.safe_load(CONFIG_YAML.read_text(encoding="utf-8"))
    assert list(settings) == [config_field.name for config_field in dataclasses.fields(Config)]
    for name in CONFIG_FIELDS:
        if name not in LISTS:
            default = default_of(name)
            expected = default.as_posix() if isinstance(default, Path) else default
            assert (name, settings[name]) == (name, expected)
            assert type(settings[name]) is type(expected), name


def test_config_yaml_is_valid_and_its_categories_are_lists_of_words() -> None:
    config = load_config(CONFIG_YAML, {})
    assert config.database == REPOSITORY / "processed_database" / "stems.db"
    assert all(words and all(word == word.lower() for word in words) for words in config.categories.values())


def test_config_yaml_has_the_engines_ten_tags_and_a_prompt_for_each_category_but_loop() -> None:
    config = load_config(CONFIG_YAML, {})
    engines = "dark punchy hypnotic industrial gritty atmospheric driving melodic percussive minimal"
    assert list(config.tags) == engines.split()
    assert "loop" not in config.category_prompts
    prompts = [*config.tags.values(), *config.category_prompts.values()]
    texts = [text for texts in prompts for text in texts]
    assert all(text.startswith("This is a") and text.endswith(".") for text in texts)
    assert len(set(texts)) == len(texts)


def test_config_yaml_comments_each_setting_with_its_help_text() -> None:
    lines = CONFIG_YAML.read_text(encoding="utf-8").splitlines()
    for name, config_field in CONFIG_FIELDS.items():
        number = next(number for number, line in enumerate(lines) if line.startswith(f"{name}:"))
        comment = lines[number - 1].removeprefix("# ") if name in LISTS else lines[number].partition("  # ")[2]
        assert (name, comment) == (name, config_field.metadata["help"])


def test_help_mentions_every_flag_with_its_field_s_words_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = squeezed(capsys.readouterr().out)
    for name in SETTINGS_WITH_A_FLAG:
        help_text, default = CONFIG_FIELDS[name].metadata["help"], default_of(name)
        default_text = default.as_posix() if isinstance(default, Path) else ("none" if default == [] else str(default))
        assert f"--{name.replace('_', '-')}" in text
        assert squeezed(f"{help_text} (default: {default_text})") in text
    assert [flag for flag in OTHER_FLAGS if flag not in text] == []
    assert "-vmoreontheconsole" in text
    assert "-qwarningsanderrorsonly" in text
    assert "Exitcodes" in text


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", str(REPOSITORY / "prepare_dataset_sql.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "usage:" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "soundfile" in imported  # so the list is one
    heavy = {
        "av",
        "torch",
        "librosa",
        "laion_clap",
        "pandas",
        "scipy",
        "openvino",
        "transformers",
        "huggingface_hub",
        "numba",
    }
    assert imported & heavy == set()


# -- wrong settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("batch_window", "batch_windows"),
        ("Workers", "workers"),
        ("max-duration-s", "max_duration_s"),
        ("databse", "database"),
        ("model_config", None),
        ("xyzzy", None),
    ],
)
def test_unknown_key_is_named_with_the_nearest_valid_one(
    key: str, nearest: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = config_file(tmp_path, f"{key}: 5\n")
    assert main(["--config", str(source), "--input", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert str(source) in message
    assert f"{key}: unknown setting" in message
    if nearest:
        assert f"did you mean {nearest!r}" in message
    assert all(name in message for name in CONFIG_FIELDS)


@pytest.mark.parametrize("key", ["1", "true", "null", "1.5", "2024-01-01", "[a, b]"])
def test_a_key_that_is_no_text_is_a_usage_error_too(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = config_file(tmp_path, f"? {key}\n: 5\n")
    assert main(["--config", str(source), "--input", str(tmp_path)]) == 2
    assert str(source) in capsys.readouterr().err


WRONG_VALUES = [
    # (line, key, value as shown, rule as shown)
    ('batch_windows: "96"', "batch_windows", "'96'", "integer"),
    ("batch_windows: true", "batch_windows", "True", "integer"),
    ("batch_windows: 1.5", "batch_windows", "1.5", "integer"),
    ("batch_windows: null", "batch_windows", "None", "integer"),
    ("batch_windows: 0", "batch_windows", "0", "greater than or equal to 1"),
    ("batch_windows: -3", "batch_windows", "-3", "greater than or equal to 1"),
    ("batch_windows: 4097", "batch_windows", "4097", "less than or equal to 4096"),
    ("workers: -1", "workers", "-1", "greater than or equal to 0"),
    ("workers: 257", "workers", "257", "less than or equal to 256"),
    ("max_windows: 0", "max_windows", "0", "greater than or equal to 1"),
    ("max_windows: 65", "max_windows", "65", "less than or equal to 64"),
    ("limit: 0", "limit", "0", "greater than or equal to 1"),
    ("limit: yes", "limit", "True", "integer"),
    ("max_faults_in_a_row: 0", "max_faults_in_a_row", "0", "greater than or equal to 1"),
    ('max_duration_s: "21600"', "max_duration_s", "'21600'", "number"),
    ("max_duration_s: true", "max_duration_s", "True", "number"),
    ("max_duration_s: 0", "max_duration_s", "0", "greater than 0"),
    ("max_duration_s: 28800.5", "max_duration_s", "28800.5", "less than or equal to 28800"),
    ("max_duration_s: .nan", "max_duration_s", "nan", "less than or equal to 28800"),
    ("max_duration_s: .inf", "max_duration_s", "inf", "less than or equal to 28800"),
    ("max_duration_s: -.inf", "max_duration_s", "-inf", "greater than 0"),
    ("file_timeout_s: .nan", "file_timeout_s", "nan", "less than or equal to 86400"),
    ("file_timeout_s: .inf", "file_timeout_s", "inf", "less than or equal to 86400"),
    ("database: [a, b]", "database", "['a', 'b']", "path"),
    ("database: null", "database", "None", "path"),
    ("database: 5", "database", "5", "path"),
    ("stems: {a: b}", "stems", "{'a': 'b'}", "path"),
    ("input: true", "input", "True", "path"),
    ("device: gpu", "device", "'gpu'", "'auto', 'cpu' or 'cuda'"),
    ("device: 0", "device", "0", "'auto', 'cpu' or 'cuda'"),
    ("checkpoint: 630", "checkpoint", "630", "string"),
    ("categories: [kick]", "categories", "['kick']", "dictionary"),
    ("categories: {kick: bd}", "categories.kick", "'bd'", "list"),
    ("categories: {bass: [808]}", "categories.bass.0", "808", "string"),
    ("tags: [dark]", "tags", "['dark']", "dictionary"),
    ("tags: {dark: }", "tags.dark", "None", "list"),
    ("tags: {dark: []}", "tags.dark", "[]", "at least 1"),
    ("category_prompts: {kick: a kick}", "category_prompts.kick", "'a kick'", "list"),
]


@pytest.mark.parametrize(("line", "key", "value", "rule"), WRONG_VALUES, ids=[case[0] for case in WRONG_VALUES])
def test_wrong_value_is_named_with_key_and_rule(line: str, key: str, value: str, rule: str, tmp_path: Path) -> None:
    source = config_file(tmp_path, line + "\n")
    with pytest.raises(UsageError) as caught:
        load_config(source, {})
    said, _, allowed = str(caught.value).partition(f"{source}: {key}: {value}: ")
    assert said == ""
    assert rule.lower() in allowed.lower()
    assert caught.value.exit_code == 2


def test_every_wrong_setting_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(config_file(tmp_path, "workers: -1\ndevice: gpu\nfoo: 1\n"), {"limit": 0})
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--batch-windows", "0"], ["--batch-windows", "0", "greater than or equal to 1"]),
        (["--batch-windows", "5000"], ["--batch-windows", "5000", "less than or equal to 4096"]),
        (["--workers", "-1"], ["--workers", "-1", "greater than or equal to 0"]),
        (["--limit", "0"], ["--limit", "0", "greater than or equal to 1"]),
        (["--workers", "two"], ["--workers", "two"]),
        (["--device", "gpu"], ["--device", "gpu", "auto", "cpu", "cuda"]),
        (["--nonsense"], ["--nonsense"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") and len(value) < 3 else "",
)
def test_wrong_flag_is_named_as_a_flag(
    flags: list[str], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--input", str(tmp_path), "--config", str(config_file(tmp_path, "")), *flags]) == 2
    message = capsys.readouterr().err
    assert [text for text in said if text not in message] == []
    assert "settings.yaml" not in message  # it is not the file that is wrong


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"workers: [1, 2\n", "is not YAML"),
        (b"\tworkers: 1\n", "is not YAML"),
        (b"workers: \x00\n", "is not YAML"),
        (b"- a\n- b\n", "found list"),
        (b"just words\n", "found str"),
        (b"5\n", "found int"),
        (b"checkpoint: caf\xe9\n", "cannot be read"),
        (b"input: !!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_config_ends_with_exit_2(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = config_file(tmp_path / "etc", content)
    assert main(["--input", str(tmp_path), "--config", str(source)]) == 2
    message = capsys.readouterr().err
    assert str(source) in message
    assert said in message


EMPTY = ["", " ", "\t \n"]


NO_NAMES = ["null", "None", "NULL", "~"]


# Those whose value may be any text: an empty one would be taken for a path.
TEXT_SETTINGS = [name for name, f in CONFIG_FIELDS.items() if "Path" in str(f.type) or "Given" in str(f.type)]


def message_of(*flags: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(list(flags)) == 2
    return capsys.readouterr().err


def test_the_settings_that_are_paths_are_all_there() -> None:
    paths = [name for name, value in get_type_hints(Config).items() if Path in (value, *get_args(value))]
    assert list(CONFIG_PATHS) == paths
    assert set(TEXT_SETTINGS) == {*paths, "checkpoint", "scheduler"}


@pytest.mark.parametrize("text", [*EMPTY, *NO_NAMES])
@pytest.mark.parametrize("name", [*TEXT_SETTINGS, "config", "report"])
def test_a_flag_that_names_nothing_is_refused_before_anything_is_made(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flag = f"--{name.replace('_', '-')}"
    message = message_of("--input", ".", "--config", os.devnull, flag, text, capsys=capsys)
    assert message.startswith(f"error: {flag}: {text!r}: ")
    advice = "--no-stems" if name == "stems" and text in NO_NAMES else "leave the flag out"
    assert advice in message
    assert ("is empty, like an unset shell variable" in message) == (text in EMPTY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["''", "' '", '"\\t"', "'null'", "None"])
@pytest.mark.parametrize("name", TEXT_SETTINGS)
def test_a_setting_in_the_file_that_names_nothing_is_refused(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = config_file(tmp_path, f"input: stems\n{name}: {text}\n".removeprefix("input: stems\n" * (name == "input")))
    message = message_of("--config", str(source), capsys=capsys)
    assert message.startswith(f"error: {source}: {name}: {yaml.safe_load(text)!r}: ")
    no_wavs = name == "stems" and text in ("'null'", "None")
    assert ("write null, without quotes" if no_wavs else "leave the line out") in message
    assert list(tmp_path.iterdir()) == [source]


def test_a_folder_called_null_can_be_given(tmp_path: Path) -> None:
    options = product.build_parser().parse_args(["--stems", "./null", "--input", "."])
    assert (options.stems, options.input) == (Path("null"), Path("."))
    assert load_config(config_file(tmp_path, "stems: ./none\n"), {}).stems == tmp_path / "none"


def test_an_empty_input_does_not_mean_the_current_folder(workplace: Workplace) -> None:
    """As in `--input "$STEMS"` where STEMS is not set: 45 files of a home folder were once moved to quarantine."""
    (workplace.input / "letter.wav").write_text("no audio")
    before = sorted(workplace.folder.rglob("*"))
    command = [sys.executable, str(REPOSITORY / "prepare_dataset_sql.py"), *workplace.flags(), "--input", ""]
    done = subprocess.run(command, cwd=workplace.input, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: --input: '': is empty, like an unset shell variable: give a path")
    assert sorted(workplace.folder.rglob("*")) == before


DOUBLED_KEYS = [
    ("workers: 1\ndevice: cpu\nworkers: 2\n", ["workers: is given twice, in lines 1 and 3"]),
    ('workers: 1\n"workers": 1\n', ["workers: is given twice, in lines 1 and 2"]),
    (
        "workers: 1\nworkers: 2\n\nworkers: 3\n",
        ["workers: is given twice, in lines 1 and 2", "workers: is given twice, in lines 2 and 4"],
    ),
    ("tags:\n  dark: [a]\n  dry: [b]\n  dark: [c]\n", ["tags.dark: is given twice, in lines 2 and 4"]),
    ("category_prompts: {kick: [a], kick: [b]}\n", ["category_prompts.kick: is given twice, in lines 1 and 1"]),
    (
        "categories:\n  kick: [a]\n  kick: [b]\nlimit: 1\nlimit: 1\n",
        ["limit: is given twice, in lines 4 and 5", "categories.kick: is given twice, in lines 2 and 3"],
    ),
]


@pytest.mark.parametrize(("text", "said"), DOUBLED_KEYS, ids=[str(number) for number in range(len(DOUBLED_KEYS))])
def test_a_key_that_is_given_twice_is_named_with_both_lines(text: str, said: list[str], tmp_path: Path) -> None:
    source = config_file(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_config(source, {})
    assert str(caught.value).splitlines() == [f"{source}: {line}: keep one" for line in said]


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("categories: {dark: [a]}\ntags: {dark: [a]}\n", {"dark": ["a"]}),  # the same key, not in the same place
        ("tags: {dark: &d [a], dry: *d}\n", {"dark": ["a"], "dry": ["a"]}),
        ("categories: &c {dark: [a]}\ntags: {<<: *c, dry: [b]}\n", {"dark": ["a"], "dry": ["b"]}),
    ],
)
def test_what_only_looks_like_a_key_given_twice_is_fine(text: str, tags: dict[str, list[str]], tmp_path: Path) -> None:
    assert load_config(config_file(tmp_path, text), {}).tags == tags


def test_a_mapping_that_holds_itself_is_a_wrong_value(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tags"):
        load_config(config_file(tmp_path, "tags: &t {dark: *t}\n"), {})


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_a_config_file_that_cannot_be_read_is_named(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "settings.yaml"
    if what == "folder":
        source.mkdir()
    assert main(["--input", str(tmp_path), "--config", str(source)]) == 2
    assert str(source) in capsys.readouterr().err


# -- which setting counts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"---\n", b"\xef\xbb\xbfdevice: auto\n"])
def test_an_empty_config_file_leaves_the_defaults(content: bytes, tmp_path: Path) -> None:
    assert load_config(config_file(tmp_path, content), {}) == Config()


def test_a_flag_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    source = config_file(tmp_path, "workers: 3\nbatch_windows: 7\nstems: null\n")
    config = load_config(source, {"workers": 5})
    assert (config.workers, config.batch_windows, config.max_windows, config.stems) == (5, 7, 8, None)


def test_a_whole_number_is_fine_where_a_float_is_asked(tmp_path: Path) -> None:
    assert load_config(config_file(tmp_path, "max_duration_s: 60\n"), {}).max_duration_s == 60


def test_no_stems_beats_a_folder_in_the_file_and_stems_beats_null_in_it(tmp_path: Path) -> None:
    def stems_of(*flags: str) -> Any:
        options = product.build_parser().parse_args(["--config", str(tmp_path / "settings.yaml"), *flags])
        given = {name: value for name, value in vars(options).items() if name in CONFIG_FIELDS}
        return load_config(options.config, given).stems

    config_file(tmp_path, "stems: wavs\n")
    assert (stems_of(), stems_of("--no-stems")) == (tmp_path / "wavs", None)
    config_file(tmp_path, "stems: null\n")
    assert (stems_of(), stems_of("--stems", "here")) == (None, Path("here"))


def test_paths_in_a_file_are_relative_to_it_and_flags_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    lines = "input: in\ndatabase: out/a.db\nstems: ../wavs\nquarantine: /abs/q\nlog_file: ~/x.log\n"
    config_file(tmp_path / "etc", lines)
    config = load_config(Path("../etc/settings.yaml"), {"database": Path("mine.db")})
    assert config.input == tmp_path / "etc" / "in"
    assert config.stems is not None
    assert os.path.normpath(config.stems) == str(tmp_path / "wavs")
    assert config.quarantine == Path("/abs/q")
    assert config.log_file == Path.home() / "x.log"
    assert config.database.resolve() == tmp_path / "here" / "mine.db"


def test_config_yaml_here_is_taken_else_the_one_beside_the_module_else_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, module = tmp_path / "here", tmp_path / "module"
    here.mkdir()
    monkeypatch.chdir(here)
    replace_name(monkeypatch, "PROGRAM_FOLDER", module)
    assert load_config(None, {}) == Config()
    config_file(module, "workers: 3\nlog_file: x.log\n", "config.yaml")
    beside = load_config(None, {})
    assert (beside.workers, beside.log_file) == (3, module / "x.log")
    config_file(here, "workers: 4\nlog_file: x.log\n", "config.yaml")
    current = load_config(None, {})
    assert (current.workers, current.log_file) == (4, here / "x.log")
    assert load_config(config_file(tmp_path, "workers: 5\n"), {}).workers == 5  # --config beats both


def test_the_process_reads_config_yaml_of_its_current_folder(tmp_path: Path) -> None:
    config_file(tmp_path, "input: library\ndevice: gpu\n", "config.yaml")
    command = [sys.executable, str(REPOSITORY / "prepare_dataset_sql.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.search(r"config\.yaml: device: 'gpu'", done.stderr)
    assert "Traceback" not in done.stderr
