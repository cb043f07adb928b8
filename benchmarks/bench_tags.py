"""How often the audio agrees with a stated tempo, right or wrong: python benchmarks/bench_tags.py

Takes the loops of fixtures/make_music.py whose length need not be whole bars. For each share of the regularity that a
tempo of the audio must reach (`AGREEING_REGULARITY` in stem_dataset/music/file_tags.py), prints how many of the true
tempi `tempo_in_tags` believes, and how many wrong ones. The wrong ones are whole numbers from 60 to 180, 50 per loop,
without those that are a simple multiple of the true tempo. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import soxr

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "fixtures")]

from make_music import EXAMS, Example  # noqa: E402
from stem_dataset.audio.wav import StandardisedAudio  # noqa: E402
from stem_dataset.config import Config, load_config  # noqa: E402
from stem_dataset.datatypes import SAMPLE_RATE_HZ, FileTags, Tempo  # noqa: E402
from stem_dataset.music import file_tags  # noqa: E402
from stem_dataset.music.features import analyse  # noqa: E402
from stem_dataset.music.tempo import LONGEST_LOOP_S, tempo_candidates  # noqa: E402

SEED = 2026
SHARES = (0.0, 0.25, 0.5, 0.6, 2 / 3, 0.75, 0.9, 1.0)
WRONG_TEMPI = 50
# A stated tempo at one of these multiples of the true one is no clear mistake.
MULTIPLES = (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1, 4 / 3, 1.5, 2, 3, 4)


def tempi_of(example: Example, folder: Path, config: Config) -> list[Tempo]:
    """Return the tempi that the audio may have."""
    mono = example.samples if example.samples.ndim == 1 else example.samples.mean(axis=1)
    with StandardisedAudio(folder) as audio:
        audio.append(soxr.resample(mono, example.sample_rate_hz, SAMPLE_RATE_HZ).astype("float32"))
        audio.finish()
        return tempo_candidates(analyse(audio).onsets, config.tempo_center_bpm)


def wrong_tempi(true_bpm: float, dice: random.Random) -> list[float]:
    """Return tempi that are more than 6 % from each simple multiple of the true one."""
    stated = [float(dice.randint(60, 180)) for _ in range(WRONG_TEMPI)]
    return [bpm for bpm in stated if all(abs(factor * bpm / true_bpm - 1) > 0.06 for factor in MULTIPLES)]


def share_believed(stated: list[tuple[float, list[Tempo]]]) -> float:
    # In a file this long, whole bars support no tempo.
    too_long_s = LONGEST_LOOP_S + 1
    believed = [file_tags.tempo_in_tags(FileTags(bpm=bpm), tempi, too_long_s) is not None for bpm, tempi in stated]
    return 100 * sum(believed) / len(believed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count-scale", type=float, default=1.0, help="below 1: the first loops alone")
    options = parser.parse_args()
    config, dice = load_config(REPOSITORY / "config.yaml", {}), random.Random(options.seed)
    right: list[tuple[float, list[Tempo]]] = []
    wrong: list[tuple[float, list[Tempo]]] = []
    with tempfile.TemporaryDirectory() as folder:
        make, count = EXAMS["loops"]
        for example in make(options.seed, max(1, round(options.count_scale * count))):
            if example.group == "bars" or example.bpm is None:
                continue
            tempi = tempi_of(example, Path(folder), config)
            right.append((example.bpm, tempi))
            wrong += [(bpm, tempi) for bpm in wrong_tempi(example.bpm, dice)]
    print(f"{len(right)} loops\n\n| share of the regularity | true tempi believed | wrong ones |\n|---:|---:|---:|")
    for share in SHARES:
        file_tags.AGREEING_REGULARITY = share
        print(f"| {share:.2f} | {share_believed(right):.1f} % | {share_believed(wrong):.1f} % |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
