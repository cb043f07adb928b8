"""Every setting with its default, its range and one line of help.

A test compares them with config.yaml, the table in docs/settings.md and --help.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
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

# A stem gets this many of the tags that are nearest to it.
TAGS = 3

# After this many files, stop if nearly all were broken: blame the drive, not the files.
TRIAL_FILES = 500


def setting(default: Any, help_text: str) -> Any:
    """Return a `Config` field with its default and its help text.

    config.yaml, --help and the docs show the same text.
    """
    if isinstance(default, dict | list):
        return field(default_factory=default.copy, metadata={"help": help_text})
    return field(default=default, metadata={"help": help_text})


def is_given(text: str) -> bool:
    """Return whether `text` names something.

    It does if it is neither empty nor a spelling of YAML's null or Python's None.
    """
    return text.strip().lower() not in ("", "null", "none", "~")


Prompts = Annotated[list[str], MinLen(1)]
Given = Annotated[str, Predicate(is_given)]


@dataclass(frozen=True)
class Config:
    """All settings. A flag overrides config.yaml, which overrides these defaults."""

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
        120.0, "seconds a file may take, plus one per megabyte; a file that takes longer twice is quarantined"
    )
    worker_memory_mb: Annotated[int, Interval(ge=0, le=1_000_000)] = setting(
        0, "memory a decoding process may take for its file (on Linux); 0: its share of half the memory, 384 to 1024"
    )
    max_faults_in_a_row: Annotated[int, Interval(ge=1, le=1_000_000)] = setting(
        50, "stop the run after the same machine fault on this many files in a row"
    )
    max_broken_share: Annotated[float, Interval(ge=0, le=1)] = setting(
        0.9, f"stop the run if more than this share of the first {TRIAL_FILES} files is quarantined; 1 never stops it"
    )
    scheduler: Given | None = setting(
        None, "a Dask scheduler, as tcp://host:port, whose workers decode instead of local processes"
    )
    embed_on: Literal["driver", "workers"] = setting("driver", "where CLAP runs when there is a scheduler")
    progress: Literal["auto", "bar", "lines", "json", "none"] = setting(
        "auto", "how progress is shown: auto is a bar on a terminal, else lines; json prints to stdout"
    )
    limit: Annotated[int, Interval(ge=1)] | None = setting(None, "process at most this many new files in a run")
    checkpoint: Given = setting("630k-audioset-best", "a published CLAP checkpoint by name, or a file")
    trust_checkpoint: bool = setting(False, "load a checkpoint file that holds more than tensors: it may run code")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where CLAP runs; auto takes CUDA where torch sees it")
    precision: Literal["f32", "bf16"] = setting(
        "f32", "arithmetic of CLAP: f32, or the faster bf16 (its vectors are comparable only with each other)"
    )
    model_cache: Path | None = setting(
        None, "folder of the compiled model, 0.1 to 0.3 GB per checkpoint; null: the user's cache folder"
    )
    min_duration_s: Annotated[float, Interval(ge=0, le=28_800)] = setting(
        0.01, "a shorter file gets the quality issue too_short"
    )
    min_loudness_lufs: Annotated[float, Interval(ge=-120, le=0)] = setting(
        -60.0, "a quieter file gets the quality issue too_quiet"
    )
    max_clipped_share: Annotated[float, Interval(ge=0, le=1)] = setting(
        0.01, "a file with a larger share of samples at full scale gets the quality issue clipped"
    )
    max_dc_offset: Annotated[float, Interval(ge=0, le=1)] = setting(
        0.05, "a file whose mean is farther from zero (full scale is 1) gets the quality issue dc_offset"
    )
    tempo_center_bpm: Annotated[float, Interval(ge=60, le=200)] = setting(
        120.0, "typical tempo of the library: decides between a tempo and its double where the audio does not"
    )
    categories: dict[str, list[str]] = setting(
        {}, "category: [words]; the file's name is searched first, then its folders' names; the first match wins"
    )
    tags: dict[str, Prompts] = setting({}, f"tag: [prompts]; a stem gets the {TAGS} tags that CLAP finds nearest to it")
    category_prompts: dict[str, Prompts] = setting(
        {}, "category: [prompts]; a stem whose names give no category gets the one that CLAP finds nearest to it"
    )


CONFIG_FIELDS = {config_field.name: config_field for config_field in dataclasses.fields(Config)}
OUTPUTS = ("database", "stems", "quarantine", "log_file")
CONFIG_PATHS = tuple(name for name, config_field in CONFIG_FIELDS.items() if "Path" in str(config_field.type))


def load_config(config_file: Path | None, flags: Mapping[str, Any]) -> Config:
    """Merge `flags` over `config_file` over the defaults, and validate the result.

    Without `config_file`, use ./config.yaml, else the one beside the script, else the defaults alone. Paths in a file
    are relative to that file, paths in flags to the current folder. Raises `UsageError` with key, value and rule.
    """
    from pydantic import ValidationError, create_model

    source = config_file or _default_config_file()
    settings = _read_config_file(source) if source else {}
    hints = get_type_hints(Config, include_extras=True)
    # Strict mode: pydantic does not take "96" for a number, or 1 for true.
    types: dict[str, Any] = {name: (hint, None) for name, hint in hints.items()}
    validator = create_model("Config", __config__={"extra": "forbid", "strict": True}, **types)
    settings.update(flags)
    try:
        validator(**settings)
    except ValidationError as error:
        problems = [_describe_problem(problem, flags, source) for problem in error.errors()]
        raise UsageError("\n".join(problems)) from None
    config = Config(**settings)
    if config.embed_on == "workers" and config.scheduler is None:
        raise UsageError(
            "--embed-on workers: only workers of a Dask cluster embed: give --scheduler, or leave this flag out"
        )
    return config


def _default_config_file() -> Path | None:
    # A wheel installs it into the package.
    installed = PROGRAM_FOLDER / "stem_dataset" / "config.yaml"
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
    # YAML reads the keys 1, null and `no` as values that are not strings.
    settings = {str(key): value for key, value in settings.items()}
    for key in CONFIG_PATHS:
        if isinstance(settings.get(key), str) and is_given(settings[key]):
            settings[key] = source.resolve().parent / os.path.expanduser(settings[key])
    return settings


def _doubled_keys(document: Any, source: Path) -> Iterator[str]:
    """Yield a line for each key that a mapping has twice.

    `document` is a PyYAML node. YAML itself silently uses the last one.
    """
    # The loop appends to this list.
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
            # An alias may point to its own parent.
            if value.id == "mapping" and value not in [known for _, known in mappings]:
                mappings.append((f"{name}.", value))


def _describe_problem(problem: Any, flags: Mapping[str, Any], source: Path | None) -> str:
    """Return a line about one of pydantic's errors.

    It has the key, the value and what is allowed.
    """
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
    """Return what is wrong with a `text` that is not `is_given`.

    It also says what to do about it.
    """
    to_leave = f"leave the {'flag' if is_flag else 'line'} out"
    if not text.strip():
        cause = "is empty, like an unset shell variable" if is_flag else "is empty"
        folder = "the current folder" if is_flag else "the folder of this file"
        needed = "a value" if key in ("checkpoint", "scheduler") else f"a path ('.' is {folder})"
        return f"{cause}: give {needed}, or {to_leave}"
    if key == "stems":
        to_leave = f"to write no WAVs {'give --no-stems' if is_flag else 'write null, without quotes'}"
    return f"names nothing: {to_leave}; write ./{text.strip()} if that is a file's name"


def refuse_nothing(flag: str, path: Path | str | None) -> None:
    """Raise `UsageError` if a flag's path is empty or null.

    This is for flags that are not settings.
    """
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


@functools.cache
def _hints() -> dict[str, Any]:
    """Return the types of all settings; Python evaluates each annotation anew at every call."""
    return get_type_hints(Config)


def _types_of(name: str) -> list[Any]:
    """Return the types of a setting's values, without their ranges and without None."""
    hint = _hints()[name]
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [kind for kind in kinds if kind is not type(None)]


def path_if_given(text: str) -> Path | str:
    """Return a flag's path; an empty or null `text` is returned as it is, to be refused later, as Path("") is '.'."""
    return Path(text) if is_given(text) else text
