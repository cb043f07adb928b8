"""Every setting with its default, its range and its one line of help.

config.yaml, the table in docs/settings.md and --help say the same; a test compares them.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval, MinLen, Predicate

from stem_dataset import PROGRAM_FOLDER
from stem_dataset.errors import UsageError
from stem_dataset.logs import printable

TAGS = 3  # a stem has the nearest of the palette

JUDGED_FILES = 500  # by which a library that is all broken is told from one with broken files


def setting(default: Any, help_text: str) -> Any:
    """Return a `Config` field with its default and its line of help, which config.yaml and docs/settings.md repeat."""
    if isinstance(default, dict | list):
        return field(default_factory=default.copy, metadata={"help": help_text})
    return field(default=default, metadata={"help": help_text})


def is_given(text: str) -> bool:
    """Return whether `text` names something: it is not empty, and no spelling of YAML's null or Python's None."""
    return text.strip().lower() not in ("", "null", "none", "~")


Prompts = Annotated[list[str], MinLen(1)]
Given = Annotated[str, Predicate(is_given)]


@dataclass(frozen=True)
class Config:
    """All settings. A flag beats config.yaml, which beats these defaults."""

    input: Path | None = setting(None, "the folder of stems; usually given as --input")
    exclude: list[str] = setting([], "globs of files and folders below the input to leave out, as '*.mp3'")
    follow_links: bool = setting(False, "enter linked folders, each real folder once")
    database: Path = setting(Path("processed_database/stems.db"), "the SQLite database")
    stems: Path | None = setting(Path("processed_database/stems"), "folder of the standardised WAVs; null writes none")
    quarantine: Path = setting(Path("processed_database/quarantine"), "folder that broken files are moved to")
    log_file: Path = setting(Path("processed_database/prepare_dataset.log"), "the full log, appended to")
    workers: Annotated[int, Interval(ge=0, le=256)] = setting(0, "decoding processes; 0: one for each usable core")
    batch_windows: Annotated[int, Interval(ge=1, le=4096)] = setting(
        96, "windows of ten seconds in one CLAP call; each takes 2 MB"
    )
    max_windows: Annotated[int, Interval(ge=1, le=64)] = setting(8, "windows of ten seconds taken from a long file")
    max_duration_s: Annotated[float, Interval(gt=0, le=28_800)] = setting(
        21_600.0, "a longer file is quarantined (the bound keeps its WAV under 4 GB)"
    )
    file_timeout_s: Annotated[float, Interval(gt=0, le=86_400)] = setting(
        120.0, "a file that takes longer, plus a second a megabyte, is quarantined at the second try"
    )
    worker_memory_mb: Annotated[int, Interval(ge=0, le=1_000_000)] = setting(
        0, "memory of a decoding process for its file (on Linux); 0: its share of half the machine's, 384 to 1024"
    )
    max_faults_in_a_row: Annotated[int, Interval(ge=1, le=1_000_000)] = setting(
        50, "the same fault of the machine on so many files in a row stops the run"
    )
    max_broken_share: Annotated[float, Interval(ge=0, le=1)] = setting(
        0.9, f"a larger share of the first {JUDGED_FILES} files quarantined stops the run; 1 never does"
    )
    scheduler: Given | None = setting(
        None, "a Dask scheduler, as tcp://host:port, whose workers decode in place of ours"
    )
    embed_on: Literal["driver", "workers"] = setting("driver", "where CLAP runs when there is a scheduler")
    limit: Annotated[int, Interval(ge=1)] | None = setting(None, "process at most so many new files in a run")
    checkpoint: Given = setting("630k-audioset-best", "a published CLAP checkpoint by name, or a file")
    trust_checkpoint: bool = setting(False, "load a checkpoint file that holds more than tensors: it may run code")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where CLAP runs; auto takes CUDA where torch sees it")
    precision: Literal["f32", "bf16"] = setting(
        "f32", "arithmetic of CLAP: f32, or the faster bf16 (its vectors compare only with each other)"
    )
    model_cache: Path | None = setting(
        None, "folder of the compiled model, 0.1 to 0.3 GB a checkpoint; null: the user's cache folder"
    )
    min_duration_s: Annotated[float, Interval(ge=0, le=28_800)] = setting(
        0.01, "a shorter file gets the quality issue too_short"
    )
    min_loudness_lufs: Annotated[float, Interval(ge=-120, le=0)] = setting(
        -60.0, "a quieter file gets the quality issue too_quiet"
    )
    max_clipped_share: Annotated[float, Interval(ge=0, le=1)] = setting(
        0.01, "a file with more of its samples at full scale gets the quality issue clipped"
    )
    max_dc_offset: Annotated[float, Interval(ge=0, le=1)] = setting(
        0.05, "a file whose mean is farther from zero (full scale is 1) gets the quality issue dc_offset"
    )
    tempo_center_bpm: Annotated[float, Interval(ge=60, le=200)] = setting(
        120.0, "about where the library's tempi lie: decides between a tempo and its double where the audio does not"
    )
    categories: dict[str, list[str]] = setting(
        {}, "category: [words]; the first that has a word of the file's name, else of its folders' names, wins"
    )
    tags: dict[str, Prompts] = setting({}, f"tag: [prompts]; by CLAP a stem gets the {TAGS} that it sounds most like")
    category_prompts: dict[str, Prompts] = setting(
        {}, "category: [prompts]; where the names tell none, a stem gets the one that it sounds most like to CLAP"
    )


CONFIG_FIELDS = {config_field.name: config_field for config_field in dataclasses.fields(Config)}
OUTPUTS = ("database", "stems", "quarantine", "log_file")
CONFIG_PATHS = tuple(name for name, config_field in CONFIG_FIELDS.items() if "Path" in str(config_field.type))


def load_config(config_file: Path | None, flags: Mapping[str, Any]) -> Config:
    """Merge `flags` over `config_file` over the defaults, and validate the whole.

    Without `config_file`, ./config.yaml is taken, else the one beside the script, else the defaults alone. Paths in a
    file are relative to that file, flags to the current folder. Raises `UsageError` naming key, value and rule.
    """
    from pydantic import ValidationError, create_model

    source = config_file or _default_config_file()
    settings = _read_config_file(source) if source else {}
    hints = get_type_hints(Config, include_extras=True)
    # Strict: "96" is not a number, and 1 is not true.
    types: dict[str, Any] = {name: (hint, None) for name, hint in hints.items()}
    validator = create_model("Config", __config__={"extra": "forbid", "strict": True}, **types)
    settings.update(flags)
    try:
        validator(**settings)
    except ValidationError as error:
        problems = [_describe_problem(problem, flags, source) for problem in error.errors()]
        raise UsageError("\n".join(problems)) from None
    return Config(**settings)


def _default_config_file() -> Path | None:
    installed = PROGRAM_FOLDER / "stem_dataset" / "config.yaml"  # a wheel has it there
    candidates = (Path("config.yaml"), PROGRAM_FOLDER / "config.yaml", installed)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_config_file(source: Path) -> dict[str, Any]:
    import yaml

    loader = None
    try:
        loader = yaml.SafeLoader(source.read_text(encoding="utf-8"))
        document = loader.get_single_node()
        problems = list(_doubled_keys(document, source))
        settings = loader.construct_document(document) if document is not None else None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{printable(source)}: cannot be read as a config file: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{printable(source)}: is not YAML: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()
    if problems:
        raise UsageError("\n".join(problems))
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise UsageError(f"{printable(source)}: expected lines of 'setting: value', found {type(settings).__name__}")
    settings = {str(key): value for key, value in settings.items()}  # YAML reads 1, null and `no` as no text
    for key in CONFIG_PATHS:
        if isinstance(settings.get(key), str) and is_given(settings[key]):
            settings[key] = source.resolve().parent / os.path.expanduser(settings[key])
    return settings


def _doubled_keys(document: Any, source: Path) -> Iterator[str]:
    """Yield a line about each key that a mapping in `document`, a node of PyYAML's, has twice: YAML takes the last."""
    # This list grows while it is walked.
    mappings = [("", document)] if document is not None and document.id == "mapping" else []
    for parent, mapping in mappings:
        lines: dict[str, int] = {}
        for key, value in mapping.value:
            if key.id != "scalar":
                continue
            name, line = f"{parent}{key.value}", key.start_mark.line + 1
            if name in lines:
                yield f"{printable(source)}: {name}: is given twice, in lines {lines[name]} and {line}: keep one"
            lines[name] = line
            if value.id == "mapping" and value not in [known for _, known in mappings]:  # an alias may name its parent
                mappings.append((f"{name}.", value))


def _describe_problem(problem: Any, flags: Mapping[str, Any], source: Path | None) -> str:
    """Turn one of pydantic's errors into a line with the key, the value and what is allowed."""
    key = str(problem["loc"][0])
    where = (
        f"--{key.replace('_', '-')}"
        if key in flags
        else f"{printable(source or '')}: {'.'.join(map(str, problem['loc']))}"
    )
    if key not in CONFIG_FIELDS:
        nearest = difflib.get_close_matches(key, CONFIG_FIELDS, n=1, cutoff=0)[0]
        return f"{where}: unknown setting; did you mean {nearest!r}? Known: {', '.join(CONFIG_FIELDS)}"
    if problem["type"] in ("is_instance_of", "predicate_failed") and isinstance(problem["input"], str):
        rule = _rule_for_nothing(key, problem["input"], is_flag=key in flags)
    else:
        rule = "should be a path" if problem["type"] == "is_instance_of" else problem["msg"]
    return f"{where}: {problem['input']!r}: {rule} (default {default_text(key)})"


def _rule_for_nothing(key: str, text: str, is_flag: bool) -> str:
    """Say what is wrong with a text that is not given, in the sense of `is_given`, and what to do."""
    to_leave = f"leave the {'flag' if is_flag else 'line'} out"
    if not text.strip():
        cause = "is empty, as a shell variable that is not set" if is_flag else "is empty"
        folder = "the current folder" if is_flag else "the folder of this file"
        needed = "a value" if key in ("checkpoint", "scheduler") else f"a path ('.' is {folder})"
        return f"{cause}: give {needed}, or {to_leave}"
    if key == "stems":
        to_leave = f"to write no WAVs {'give --no-stems' if is_flag else 'write null, without quotes'}"
    return f"names nothing: {to_leave}; write ./{text.strip()} if it is a name"


def refuse_nothing(flag: str, path: Path | str | None) -> None:
    """Raise `UsageError` where the path of a flag that is no setting is not given."""
    if isinstance(path, str):
        raise UsageError(f"--{flag}: {path!r}: {_rule_for_nothing(flag, path, is_flag=True)}")


def default_text(key: str) -> str:
    """Return the default of a setting as --help and messages show it."""
    default = default_of(key)
    if isinstance(default, dict):
        return "a list in config.yaml"
    if isinstance(default, list):
        return ", ".join(default) or "none"
    return default.as_posix() if isinstance(default, Path) else str(default)


def default_of(name: str) -> Any:
    """Return the default of a setting."""
    config_field = CONFIG_FIELDS[name]
    return (
        config_field.default if config_field.default_factory is dataclasses.MISSING else config_field.default_factory()
    )


METAVARS = {
    "database": "FILE",
    "log_file": "FILE",
    "scheduler": "tcp://HOST:PORT",
    "checkpoint": "NAME|FILE",
}


def has_flag(name: str) -> bool:
    """Return whether a setting has a flag: all but the lists of words and prompts, which no command line could hold."""
    return not isinstance(default_of(name), dict)


def flag_options(name: str) -> dict[str, Any]:
    """Return what argparse needs to know of a setting's flag, by the setting's type, help and default."""
    text = f"{CONFIG_FIELDS[name].metadata['help']} (default: {default_text(name)})"
    options: dict[str, Any] = {"help": text.replace("%", "%%")}
    (kind,) = _types_of(name)
    if get_origin(kind) is Literal:
        return {**options, "choices": get_args(kind)}
    if get_origin(kind) is list:
        return {**options, "action": "append", "metavar": "GLOB"}
    if kind is bool:
        return {**options, "action": "store_true"}
    metavars = {Path: "DIR", int: "N", float: "X", str: "TEXT"}
    return {**options, "type": path_if_given if kind is Path else kind, "metavar": METAVARS.get(name, metavars[kind])}


def _types_of(name: str) -> list[Any]:
    """Return the types of a setting's values, without their ranges and without None."""
    hint = get_type_hints(Config)[name]
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [kind for kind in kinds if kind is not type(None)]


def path_if_given(text: str) -> Path | str:
    """Return a flag's path, or `text` as it is where that names nothing, which the checks refuse: Path("") is '.'."""
    return Path(text) if is_given(text) else text
