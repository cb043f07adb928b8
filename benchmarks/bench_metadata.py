"""How right tempo and key are, on music that knows its own: python benchmarks/bench_metadata.py

Makes the examples of fixtures/make_music.py as WAVs in a temporary folder and reads `bpm`, `key` and `features` of what
`_process_file` makes of each. Beside it, on the same files:

- librosa's plain defaults: `feature.tempo` (0 is an answer), and the mean of `feature.chroma_stft` correlated with the
  24 profiles of Krumhansl and Kessler, nothing else
- essentia, if it is installed here or for the interpreter that --essentia names: `RhythmExtractor2013` and
  `KeyExtractor` with the profile bgate, and `PercivalBpmEstimator`. It is under the AGPL, runs in a process of its own,
  and nothing in the program needs it

Prints a Markdown table. --misses lists each wrong answer, --sweep-key what a threshold on `key_confidence` would do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "fixtures")]

from make_music import FORMS, GROUPS, TIMBRES, Example, whole_exam  # noqa: E402
from make_stems import NOTES  # noqa: E402
from stem_dataset.config import load_config  # noqa: E402
from stem_dataset.datatypes import FoundFile  # noqa: E402
from stem_dataset.output_folders import scratch_folder  # noqa: E402

# Krumhansl, Cognitive Foundations of Musical Pitch (1990), p. 30: C major and C minor, from C upwards.
KRUMHANSL_KESSLER = {
    "": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "m": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
SEED = 2026
OCTAVES = (0.5, 1, 2)
LIBROSA = "librosa's defaults"
# Reads a JSON list of files, and prints the tempo and the key by each estimator. Some of them refuse short files.
ESSENTIA = """
import json, sys
import essentia, essentia.standard as es
essentia.log.infoActive = essentia.log.warningActive = False
SHARPS = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#"}
def rhythm(samples):
    return float(es.RhythmExtractor2013(method="multifeature")(samples)[0])
def percival(samples):
    return float(es.PercivalBpmEstimator()(samples))
def key(samples):
    note, scale, _ = es.KeyExtractor(profileType="bgate")(samples)
    return SHARPS.get(note, note) + ("m" if scale == "minor" else "")
def answer(estimator, samples):
    try:
        return estimator(samples)
    except RuntimeError:
        return None
for file in json.load(sys.stdin):
    samples = es.MonoLoader(filename=file)()
    print(json.dumps({
        "essentia (RhythmExtractor2013, KeyExtractor)": [answer(rhythm, samples), answer(key, samples)],
        "essentia (PercivalBpmEstimator)": [answer(percival, samples), None],
    }))
"""


@dataclass(frozen=True)
class Truth:
    """A file and what is true of it."""

    exam: str
    file: str
    group: str
    kind: str
    timbre: str | None
    bpm: float | None
    key: str | None

    @property
    def tempo_counts(self) -> bool:
        return self.exam in ("loops", "one_shots_and_noises")


@dataclass(frozen=True)
class Answer:
    """What somebody says of a file."""

    bpm: float | None
    key: str | None
    features: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    truth: Truth
    ours: Answer
    # By the name of the column.
    others: Mapping[str, Answer]


# ---------------------------------------------------------------------------------------------------- the answers


def write(exam: str, example: Example, folder: Path) -> Truth:
    """Write one example below its exam's folder; the product sees that folder as its input, so names tell no more."""
    path = folder / exam / example.name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, example.samples, example.sample_rate_hz, subtype="PCM_16")
    return Truth(exam, str(path), example.group, example.kind, example.timbre, example.bpm, example.key)


def answers(task: tuple[Truth, str]) -> Result:
    """Ask the product, then librosa, about one file; runs in a worker."""
    truth, folder = task
    return Result(truth, ask_product(truth, Path(folder)), {LIBROSA: ask_librosa(truth.file)})


def ask_product(truth: Truth, folder: Path) -> Answer:
    """What the table would hold. A file that was quarantined, or a fault, ends the benchmark."""
    import prepare_dataset_sql as product

    outputs = {"database": "x.db", "quarantine": "quarantine", "log_file": "x.log"}
    flags: dict[str, Path | None] = {key: folder / "outputs" / name for key, name in outputs.items()}
    flags |= {"input": folder / truth.exam, "stems": None}
    config = load_config(REPOSITORY / "config.yaml", flags)
    run_context = product.DatasetPreparer(config, show_progress=False)._run_context
    scratch_folder(run_context.stems, run_context.quarantine).mkdir(parents=True, exist_ok=True)
    status = Path(truth.file).stat()
    processed = product._process_file(FoundFile(truth.file, status.st_size, status.st_mtime_ns), run_context)
    if processed is None:
        raise SystemExit(f"{truth.file}: quarantined; see the .json beside it (--keep DIR keeps it)")
    metadata = processed.metadata
    return Answer(metadata.bpm, metadata.key, json.loads(metadata.features))


def ask_librosa(file: str) -> Answer:
    """`librosa.load`, then two functions as they come."""
    import librosa

    samples, rate_hz = librosa.load(file)
    tempo = float(librosa.feature.tempo(y=samples, sr=rate_hz)[0])
    return Answer(tempo, best_key(librosa.feature.chroma_stft(y=samples, sr=rate_hz).mean(axis=1)))


def with_essentia(python: str, results: Sequence[Result]) -> list[Result]:
    """Return the results with essentia's answers. An interpreter without essentia ends the benchmark."""
    files = json.dumps([result.truth.file for result in results])
    done = subprocess.run([python, "-c", ESSENTIA], input=files, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python}: {done.stderr[-500:]}")
    said = [
        {name: Answer(*answer) for name, answer in json.loads(line).items()}
        for line in done.stdout.splitlines()
        if line.startswith("{")
    ]
    return [
        Result(result.truth, result.ours, {**result.others, **answers})
        for result, answers in zip(results, said, strict=True)
    ]


def best_key(chroma: Any) -> str:
    """The key whose profile correlates best with a chroma vector [shape=(12,)]."""
    scores = {
        note + mode: float(np.corrcoef(chroma, np.roll(profile, tonic))[0, 1])
        for mode, profile in KRUMHANSL_KESSLER.items()
        for tonic, note in enumerate(NOTES)
    }
    return max(scores, key=lambda key: np.nan_to_num(scores[key], nan=-2))


# ------------------------------------------------------------------------------------------------------ the marks


def is_right(truth: float | None, answer: float | None, factors: Sequence[float] = (1,)) -> bool:
    """Whether a tempo is within 2 % of the true one times one of the factors; None is right only where truth is."""
    if truth is None or answer is None:
        return truth is answer
    return any(abs(answer / (truth * factor) - 1) <= 0.02 for factor in factors)


def mirex_score(truth: str, answer: str | None) -> float:
    """As `mir_eval.key.weighted_score`: same 1, a fifth above 0.5, relative 0.3, parallel 0.2, else 0; None 0."""
    if answer is None:
        return 0.0
    if answer == truth:
        return 1.0
    modes = [key.endswith("m") for key in (truth, answer)]
    tonics = [NOTES.index(key.removesuffix("m")) for key in (truth, answer)]
    up = (tonics[1] - tonics[0]) % 12
    if modes[0] == modes[1]:
        return 0.5 if up == 7 else 0.0
    if up == (3 if modes[0] else 9):  # the relative major lies a minor third above
        return 0.3
    return 0.2 if up == 0 else 0.0


def share(marks: Iterable[float]) -> str:
    """The mean as a percentage, with what it is the mean of."""
    values = list(marks)
    return f"{100 * sum(values) / len(values):.1f} %" if values else "–"


def is_miss(result: Result) -> bool:
    """Whether our answer is wrong in what its exam asks."""
    truth, ours = result.truth, result.ours
    return not is_right(truth.bpm, ours.bpm) if truth.tempo_counts else truth.key != ours.key


# ----------------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class Row:
    """A line of the table: the files it is about, and their mark."""

    name: str
    results: list[Result]
    mark: Callable[[Truth, Answer], float]

    def markdown(self) -> str:
        ours = share(self.mark(result.truth, result.ours) for result in self.results)
        others = [
            share(self.mark(result.truth, result.others[name]) for result in self.results)
            for name in (self.results[0].others if self.results else ())
        ]
        return f"| {' | '.join([self.name, str(len(self.results)), ours, *others])} |"


def tempo_rows(results: Sequence[Result]) -> list[Row]:
    loops = [result for result in results if result.truth.exam == "loops"]
    shots = [result for result in results if result.truth.exam == "one_shots_and_noises"]
    where = {"name": "the tempo is in the name", "bars": "the length is whole bars", "audio": "only the audio gives it"}
    rows = []
    for group in GROUPS:
        chosen = [result for result in loops if result.truth.group == group]
        rows.append(Row(f"loops, {where[group]}: within 2 %", chosen, lambda t, a: is_right(t.bpm, a.bpm)))
        name = f"loops, {where[group]}: within 2 % up to a factor of 2"
        rows.append(Row(name, chosen, lambda t, a: is_right(t.bpm, a.bpm, OCTAVES)))
    rows.append(Row("all loops: within 2 %", loops, lambda t, a: is_right(t.bpm, a.bpm)))
    rows.append(Row("all loops: within 2 % up to a factor of 2", loops, lambda t, a: is_right(t.bpm, a.bpm, OCTAVES)))
    for group in ("one-shots", "noises"):
        chosen = [result for result in shots if result.truth.group == group]
        rows.append(Row(f"{group}: tempo NULL", chosen, lambda _, a: a.bpm is None))
    rows.append(Row("one-shots and noises: tempo NULL", shots, lambda _, a: a.bpm is None))
    return rows


def key_rows(results: Sequence[Result]) -> list[Row]:
    keyed = [result for result in results if result.truth.exam == "keyed_music"]
    keyless = [result for result in results if result.truth.exam == "keyless"]
    parts = {"all music in a key": keyed}
    parts |= {timbre: [result for result in keyed if result.truth.timbre == timbre] for timbre in TIMBRES}
    parts |= {form: [result for result in keyed if result.truth.group == form] for form in FORMS}
    rows = []
    for name, chosen in parts.items():
        rows.append(Row(f"{name}: exact key", chosen, lambda t, a: t.key == a.key))
        rows.append(Row(f"{name}: MIREX score", chosen, lambda t, a: mirex_score(str(t.key), a.key)))
    rows.append(Row("drums, noises, metal, glissandi: key NULL", keyless, lambda _, a: a.key is None))
    return rows


def print_table(results: Sequence[Result]) -> None:
    columns = ["files", "ours", *results[0].others]
    print(f"| | {' | '.join(columns)} |")
    print(f"|---|{'---:|' * len(columns)}")
    for row in [*tempo_rows(results), *key_rows(results)]:
        print(row.markdown())


def print_misses(results: Sequence[Result], folder: Path) -> None:
    """Every file of ours that is wrong, with the truth, our answer and how sure it was."""
    print("\n| file | kind | truth | answer | judged by |")
    print("|---|---|---|---|---|")
    for result in filter(is_miss, results):
        truth, ours = result.truth, result.ours
        asked = "bpm" if truth.tempo_counts else "key"
        said = {name: value for name, value in ours.features.items() if name.startswith(asked)}
        name = Path(truth.file).relative_to(folder)
        kind = ", ".join(filter(None, (truth.group, truth.kind if truth.kind != truth.group else "", truth.timbre)))
        print(f"| {name} | {kind} | {getattr(truth, asked)} | {getattr(ours, asked)} | {said or '–'} |")


def print_key_sweep(results: Sequence[Result]) -> None:
    """What thresholds on the confidence would give. Answers that are NULL today stay so: lower ones show no more."""
    keyed = [result for result in results if result.truth.exam == "keyed_music"]
    keyless = [result for result in results if result.truth.exam == "keyless"]
    sure = [result.ours.features.get("key_confidence") for result in keyed + keyless]
    values = [value for value in sure if value is not None]
    if not values:
        print("\nNo file has features.key_confidence: there is nothing to sweep.")
        return
    print("\n| key_confidence at least | exact key | keyless: NULL |\n|---:|---:|---:|")
    for threshold in np.unique(np.quantile(values, np.linspace(0, 1, 41))):

        def answer(result: Result, least: float = float(threshold)) -> str | None:
            confidence = result.ours.features.get("key_confidence")
            return result.ours.key if confidence is not None and confidence >= least else None

        right = share(answer(result) == result.truth.key for result in keyed)
        print(f"| {threshold:.3f} | {right} | {share(answer(result) is None for result in keyless)} |")


def run(folder: Path, options: argparse.Namespace) -> None:
    truths = [write(exam, example, folder) for exam, example in whole_exam(options.seed, options.count_scale)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        results = list(pool.map(answers, [(truth, str(folder)) for truth in truths], chunksize=8))
    if options.essentia:
        results = with_essentia(options.essentia, results)
    print_table(results)
    if options.misses:
        print_misses(results, folder)
    if options.sweep_key:
        print_key_sweep(results)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED, help="other dice than the usual ones (%(default)s)")
    parser.add_argument("--count-scale", type=float, default=1.0, help="0.1: only the first tenth of each exam")
    parser.add_argument("--workers", type=int, default=None, help="processes; default: one for each core")
    parser.add_argument("--misses", action="store_true", help="list every wrong answer")
    parser.add_argument("--sweep-key", action="store_true", help="thresholds on the confidence of the key")
    here = sys.executable if importlib.util.find_spec("essentia") else None
    parser.add_argument("--essentia", default=here, metavar="PYTHON", help="an interpreter that has essentia")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the WAVs there, and leave them")
    options = parser.parse_args(argv)
    if options.keep:
        run(options.keep.resolve(), options)
        return 0
    with tempfile.TemporaryDirectory(prefix="music-") as folder:
        run(Path(folder).resolve(), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
