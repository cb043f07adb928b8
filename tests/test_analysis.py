"""What is told from the standardised samples and from names: five features, tempo, category, quality issues."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from librosa import feature
from librosa.onset import onset_detect, onset_strength

import prepare_dataset_sql as product
from conftest import REPOSITORY
from prepare_dataset_sql import SourceFormat, StandardisedAudio, analyse, categorise, quality_issues

Float32 = npt.NDArray[np.float32]

RATE_HZ = 48_000
N_FFT, HOP = 2_048, 512
SPECTRAL = ("spectral_centroid", "spectral_rolloff", "spectral_bandwidth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def standardised(samples: npt.ArrayLike, folder: Path) -> StandardisedAudio:
    audio = StandardisedAudio(folder)
    audio.append(np.asarray(samples, np.float32))
    audio.finish()
    return audio


def analysed(samples: npt.ArrayLike, folder: Path) -> tuple[dict[str, float | None], float | None]:
    with standardised(samples, folder) as audio:
        return analyse(audio)


def music(seconds: float, seed: int = 0) -> Float32:
    """Return a tone that glides and swells over a little noise, so that no two blocks are alike."""
    seconds_in = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    hz = 200 + 150 * seconds_in
    swell = 0.4 + 0.3 * np.sin(2 * np.pi * 0.3 * seconds_in)
    dice = np.random.default_rng(seed)
    tone = swell * np.sin(2 * np.pi * hz * seconds_in) + 0.02 * dice.standard_normal(len(seconds_in))
    return np.asarray(tone, np.float32)


def clicks(bpm: float, seconds: float) -> Float32:
    """Return a click at each beat: 10 ms of decaying noise."""
    loop = np.zeros(int(seconds * RATE_HZ), np.float32)
    click = np.random.default_rng(1).standard_normal(480) * np.exp(-np.arange(480) / 100)
    for beat in range(int(seconds * bpm / 60)):
        start = round(beat * 60 / bpm * RATE_HZ)
        loop[start : start + 480] = (0.3 * click).astype(np.float32)[: len(loop) - start]
    return loop


# ------------------------------------------------------------------------------------------------------- five features


def librosas_features(samples: Float32) -> dict[str, float]:
    """Return librosa's features of the whole file in one piece, by its defaults for y, n_fft 2048 and hop 512."""
    sizes: dict[str, Any] = {"n_fft": N_FFT, "hop_length": HOP}
    of_samples = {"y": samples, "sr": RATE_HZ, **sizes}
    features = {
        "spectral_centroid": feature.spectral_centroid(**of_samples),
        "spectral_rolloff": feature.spectral_rolloff(**of_samples),
        "spectral_bandwidth": feature.spectral_bandwidth(**of_samples),
        "rms": feature.rms(y=samples, frame_length=N_FFT, hop_length=HOP),
    }
    means = {name: float(values.mean(dtype=np.float64)) for name, values in features.items()}
    return {**means, "zero_crossing_rate": zero_crossing_rate(samples)}


def zero_crossing_rate(samples: Float32) -> float:
    """Return the mean over the frames by the definition; librosa alone pads this one with the edge's value."""
    padded = np.pad(samples, N_FFT // 2)
    negative = np.signbit(np.where(np.abs(padded) <= 1e-10, 0, padded))
    frames = [negative[start : start + N_FFT] for start in range(0, len(padded) - N_FFT + 1, HOP)]
    return float(np.mean([np.count_nonzero(frame[1:] != frame[:-1]) / N_FFT for frame in frames]))


def assert_like_librosa(samples: Float32, folder: Path) -> None:
    with standardised(samples, folder) as audio:
        features, _ = analyse(audio)
        expected = librosas_features(audio.samples())
        # librosa sums up the magnitudes in float32, so where 85 % are reached at the very edge of a bin it may say the
        # next one: one frame in some thousands.
        edge_hz = RATE_HZ / N_FFT / (1 + audio.length // HOP)
    assert features.pop("spectral_rolloff") == pytest.approx(expected.pop("spectral_rolloff"), rel=1e-6, abs=edge_hz)
    assert features == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_features_of_a_short_file_equal_librosas(folder: Path) -> None:
    assert_like_librosa(music(0.7), folder)


def test_features_of_a_file_of_several_blocks_equal_librosas(folder: Path) -> None:
    samples = music(66.3)
    assert len(samples) > product.KEPT_SAMPLES > product.ANALYSIS_FRAMES * HOP
    assert_like_librosa(samples, folder)


def test_features_of_a_pure_tone_equal_librosas(folder: Path) -> None:
    """Its band is so narrow that the rounding noise of an FFT in float32 would widen it by 1 %."""
    assert_like_librosa(np.sin(2 * np.pi * 87.3 * np.arange(2 * RATE_HZ) / RATE_HZ).astype(np.float32), folder)


def test_features_of_a_loud_hit_and_its_faint_tail_equal_librosas(folder: Path) -> None:
    assert_like_librosa(music(3) * np.geomspace(1, 1e-5, 3 * RATE_HZ).astype(np.float32), folder)


@pytest.mark.filterwarnings("ignore:n_fft=2048 is too large:UserWarning")  # of the oracle
@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 12_000), block_frames=st.integers(1, 9))
def test_features_equal_librosas_wherever_the_blocks_end(folder: Path, length: int, block_frames: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "ANALYSIS_FRAMES", block_frames)
        assert_like_librosa(music(1)[-length:], folder)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("length", [1, N_FFT, 3 * RATE_HZ])
def test_silence_has_no_spectral_features_and_zero_rms_and_crossings(folder: Path, length: int) -> None:
    features, bpm = analysed(np.zeros(length), folder)
    assert features == {"rms": 0.0, "zero_crossing_rate": 0.0, **dict.fromkeys(SPECTRAL)}
    assert bpm is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "samples",
    [[0.5], [1e-6] * RATE_HZ, np.ones(3 * RATE_HZ), [0.0] * 3 * RATE_HZ + [0.9], np.tile([1, -1], 2 * RATE_HZ)],
    ids=["one sample", "one step of DC", "full scale DC", "a hit at the end", "Nyquist at full scale"],
)
def test_features_of_odd_audio_are_finite_numbers(folder: Path, samples: npt.ArrayLike) -> None:
    features, bpm = analysed(samples, folder)
    assert set(features) == {*SPECTRAL, "rms", "zero_crossing_rate"}
    assert all(value is not None and math.isfinite(value) for value in features.values())
    assert bpm is None


class Ledger:
    """Stands before a `StandardisedAudio` and notes how many samples are asked for at once."""

    def __init__(self, audio: StandardisedAudio) -> None:
        self.audio = audio
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.audio, name)

    def samples(self, start: int = 0, stop: int | None = None) -> Float32:
        stop = self.audio.length if stop is None else stop
        self.asked.append(stop - start)
        return self.audio.samples(start, stop)


def test_analysis_never_asks_for_more_than_a_block(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "ANALYSIS_FRAMES", 64)
    with standardised(music(20), folder) as audio:
        ledger: Any = Ledger(audio)
        analyse(ledger)
    assert len(ledger.asked) > 20
    assert max(ledger.asked) <= 64 * HOP + N_FFT


def test_of_a_long_file_a_bounded_part_is_analysed_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class TenMinutes:
        length = 600 * RATE_HZ
        peak = 1.0
        starts: ClassVar[list[int]] = []

        def samples(self, start: int, stop: int) -> Float32:
            self.starts.append(start)
            assert stop - start <= product.ANALYSIS_FRAMES * HOP + N_FFT
            return np.full(stop - start, 0.5, np.float32)

    monkeypatch.setattr(product, "MAX_ANALYSIS_S", 30.0)
    monkeypatch.setattr(product, "MAX_TEMPO_S", 4.0)
    features, _ = analyse(TenMinutes())  # type: ignore[arg-type]  # all that it uses
    assert features["rms"] == pytest.approx(0.5, rel=0.01)  # a mean over the frames that were read, not over all
    assert len(TenMinutes.starts) <= math.ceil((30 + 4) * RATE_HZ / HOP / product.ANALYSIS_FRAMES) + 1
    assert np.diff(TenMinutes.starts).max() < 25 * RATE_HZ
    assert TenMinutes.starts[-1] > TenMinutes.length - 25 * RATE_HZ


def test_features_of_a_bounded_part_are_near_those_of_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, bpm = analysed(music(60), folder)
    monkeypatch.setattr(product, "MAX_ANALYSIS_S", 20.0)
    part, part_bpm = analysed(music(60), folder)
    assert part != whole
    assert part == pytest.approx(whole, rel=0.1)
    assert part_bpm == bpm


# --------------------------------------------------------------------------------------------------------------- tempo


@pytest.mark.parametrize("bpm", [90, 120, 140])
def test_tempo_of_a_click_loop_is_heard_or_an_octave_of_it(folder: Path, bpm: float) -> None:
    heard = analysed(clicks(bpm, 8), folder)[1]
    assert heard is not None
    assert min(abs(heard / (bpm * octave) - 1) for octave in (0.5, 1, 2)) < 0.04


@pytest.mark.parametrize("block_frames", [3, 100])
def test_tempo_does_not_depend_on_the_blocks(folder: Path, block_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = analysed(clicks(100, 5), folder)[1]
    monkeypatch.setattr(product, "ANALYSIS_FRAMES", block_frames)
    assert analysed(clicks(100, 5), folder)[1] == whole


@pytest.mark.parametrize("bpm", [55, 90, 128, 174, 230, 400])
def test_tempo_equals_librosas_of_the_whole_file(folder: Path, bpm: float) -> None:
    loop = clicks(bpm, 6) + 0.1 * music(6)
    heard = analysed(loop, folder)[1]
    assert heard == pytest.approx(float(feature.tempo(y=loop, sr=RATE_HZ, hop_length=HOP)[0]), rel=1e-9)


@pytest.mark.parametrize("frames", [188, 749, 750, 751, 3_000])
@pytest.mark.parametrize("beat_frames", [23, 47, 900])
def test_mean_tempogram_equals_the_mean_of_librosas(frames: int, beat_frames: int) -> None:
    strength = np.random.default_rng(frames).random(frames).astype(np.float32)
    strength[np.arange(frames) % beat_frames > 2] = 0
    librosas = feature.tempogram(onset_envelope=strength, sr=RATE_HZ, hop_length=HOP, win_length=product.TEMPO_LAGS)
    assert product._mean_tempogram(strength) == pytest.approx(librosas.mean(axis=1), abs=2e-7)


@pytest.mark.parametrize("seed", range(20))
def test_onset_strength_and_onsets_equal_librosas(seed: int) -> None:
    """In beats of noise over a floor, at odd places and of odd loudness, and with silence before and after."""
    dice = np.random.default_rng(seed)
    loudness = np.repeat(dice.random(40) ** 8, dice.integers(1, 30, 40))[:, np.newaxis]
    mel = (loudness * dice.random((len(loudness), 128)) + 10.0 ** -(seed % 12)).astype(np.float32)
    mel[:5] = mel[-5:] = 0
    librosas = onset_strength(S=librosa.power_to_db(mel.T, ref=np.max), sr=RATE_HZ, hop_length=HOP)
    strength = product._onset_strength(mel)
    assert strength == pytest.approx(librosas, rel=1e-5, abs=1e-4)
    onsets = onset_detect(onset_envelope=librosas, sr=RATE_HZ, hop_length=HOP)
    assert product._count_onsets(strength) == len(onsets) > 0


@pytest.mark.parametrize("seed", range(20))
def test_onsets_in_a_crowd_equal_librosas(seed: int) -> None:
    strength = np.random.default_rng(seed).random(400).astype(np.float32) ** (1 + seed)
    onsets = onset_detect(onset_envelope=strength, sr=RATE_HZ, hop_length=HOP)
    assert product._count_onsets(strength) == len(onsets) > 0


@pytest.mark.parametrize("echo_frames", [8, 15, 17, 18, 19, 24])
def test_tempo_of_hits_with_an_echo_equals_librosas(echo_frames: int) -> None:
    """At 48 kHz, 18 frames are 312 beats a minute; librosa names none above 320."""
    hits = np.random.default_rng(echo_frames).integers(0, 900, 12)
    mel = np.full((938, 128), 1e-6, np.float32)
    mel[[*hits, *(hits + echo_frames)]] = 1
    tempo = feature.tempo(onset_envelope=product._onset_strength(mel), sr=RATE_HZ, hop_length=HOP)
    assert product._tempo_bpm(mel) == pytest.approx(float(tempo[0]), rel=1e-9)


def test_mel_spectrum_equals_librosas() -> None:
    power = np.random.default_rng(0).random((7, product.BINS)).astype(np.float32)
    librosas = feature.melspectrogram(S=power.T, sr=RATE_HZ, n_fft=N_FFT)
    np.testing.assert_allclose(product._mel_spectrum(power), librosas.T, rtol=1e-5)


def test_tempo_of_a_long_file_is_that_of_its_first_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "MAX_TEMPO_S", 6.0)
    first = clicks(120, 6)
    longer = np.concatenate([first, clicks(170, 20)])
    assert analysed(longer, folder)[1] == pytest.approx(analysed(first, folder)[1], rel=0.03)


def test_no_tempo_is_told_under_two_seconds(folder: Path) -> None:
    loop = clicks(240, 3)
    assert analysed(loop[: 2 * RATE_HZ - 1], folder)[1] is None
    assert analysed(loop[: 2 * RATE_HZ], folder)[1] is not None


def single_hit(seconds: float) -> Float32:
    hit = clicks(60, seconds)
    hit[RATE_HZ // 2 :] = 0
    return hit


@pytest.mark.parametrize(
    "samples",
    [np.zeros(5 * RATE_HZ), single_hit(5), np.roll(single_hit(5), RATE_HZ), 0.3 * np.ones(5 * RATE_HZ)],
    ids=["silence", "one hit", "one late hit", "DC"],
)
def test_what_has_no_beat_has_no_tempo(folder: Path, samples: Float32) -> None:
    assert analysed(samples, folder)[1] is None


@settings(deadline=None, max_examples=25)
@given(seconds=st.floats(2, 4), hits=st.lists(st.floats(0, 0.99), max_size=8), floor=st.sampled_from([0, 1e-6, 0.1]))
def test_tempo_is_none_or_positive_and_never_zero(
    folder: Path, seconds: float, hits: list[float], floor: float
) -> None:
    samples = (floor * np.random.default_rng(2).standard_normal(int(seconds * RATE_HZ))).astype(np.float32)
    for hit in hits:
        samples[int(hit * len(samples))] += 0.9
    bpm = analysed(samples, folder)[1]
    assert bpm is None or (math.isfinite(bpm) and bpm > 0)


# ------------------------------------------------------------------------------------------------------------ category

CATEGORIES: dict[str, list[str]] = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))[
    "categories"
]


@pytest.mark.parametrize(
    ("path", "category"),
    [
        # the file's own name
        ("kick_01.wav", "kick"),
        ("KICK.WAV", "kick"),
        ("BD-3.wav", "kick"),
        ("kickDrum.wav", "kick"),
        ("kick01.wav", "kick"),
        ("Hard Kicks (dry).aif", "kick"),
        ("HiHat_open02.wav", "hat"),
        ("hi-hat.wav", "hat"),
        ("hihats 3.wav", "hat"),
        ("TR808.wav", "bass"),
        ("drum_loop_120.wav", "drum_loop"),
        ("DrumLoop.wav", "drum_loop"),
        ("bass drum.wav", "kick"),
        ("synth loop.wav", "loop"),
        ("VOX.1.2.flac", "vocal"),
        # not a word of its own
        ("sidekick.wav", "unknown"),
        ("kicking.wav", "unknown"),
        ("subtle.wav", "unknown"),
        ("808080.wav", "unknown"),
        ("01.wav", "unknown"),
        (".wav.wav", "unknown"),
        # folders
        ("Kicks/01.wav", "kick"),
        ("Drums/Kicks/Punchy/01.wav", "kick"),
        ("Snares/Kicks/01.wav", "kick"),
        ("Kicks/Snares/01.wav", "snare"),
        ("Kicks/snare_01.wav", "snare"),
        ("Kicks.v1.0/01.wav", "kick"),
        ("Sidekick/01.wav", "unknown"),
        ("a.wav/01.wav", "unknown"),
        # other letters
        ("Übung/Kick ä.wav", "kick"),
        ("Schläge/01.wav", "unknown"),
        ("キック/kick.wav", "kick"),
        ("kick🥁.wav", "kick"),
        ("kick\udcff.wav", "kick"),
    ],
)
def test_category_is_the_word_of_the_name_or_of_the_nearest_folder(path: str, category: str) -> None:
    assert categorise(f"/library/{path}", "/library", CATEGORIES) == category


def test_every_word_of_the_config_is_found_by_its_category_or_an_earlier_one() -> None:
    order = list(CATEGORIES)
    for category, words in CATEGORIES.items():
        for word in words:
            for name in (word, word.upper(), word.replace(" ", "_") + "_01", word + "s"):
                found = categorise(f"/library/{name}.wav", "/library", CATEGORIES)
                assert found in order[: order.index(category) + 1], (name, found)


def test_folders_above_the_root_are_not_asked() -> None:
    assert categorise("/my/Kicks/library/01.wav", "/my/Kicks/library", CATEGORIES) == "unknown"
    assert categorise("/my/Kicks/library/01.wav", "/my", CATEGORIES) == "kick"


def test_first_category_of_the_config_wins() -> None:
    both = {"one": ["deep"], "two": ["kick"]}
    assert categorise("/library/kick deep.wav", "/library", both) == "one"
    assert categorise("/library/kick deep.wav", "/library", dict(reversed(both.items()))) == "two"


def test_without_categories_all_is_unknown() -> None:
    assert categorise("/library/kick.wav", "/library", {}) == "unknown"


@pytest.mark.parametrize("name", ["Flöte_01.wav", "flöte.wav", "FLÖTE 2.wav", "Flötes.wav"])
def test_words_with_umlauts_match_whole(name: str) -> None:
    assert categorise(f"/library/{name}", "/library", {"wind": ["flöte"]}) == "wind"


@pytest.mark.parametrize("name", ["Übd.wav", "Bäbd.wav", "kické.wav", "ébass.wav"])
def test_rest_of_a_word_with_umlauts_is_no_word(name: str) -> None:
    assert categorise(f"/library/{name}", "/library", CATEGORIES) == "unknown"


# ------------------------------------------------------------------------------------------------------------- quality


def source(frames: int, rate_hz: int = RATE_HZ, truncated: bool = False) -> SourceFormat:
    return SourceFormat(sample_rate_hz=rate_hz, channels=1, frames=frames, truncated=truncated)


@pytest.mark.parametrize(
    ("frames", "rate_hz", "issues"),
    [
        (999, 100_000, ["too_short"]),  # 9.99 ms
        (1_000, 100_000, []),
        (479, 48_000, ["too_short"]),
        (480, 48_000, []),
        (440, 44_100, ["too_short"]),
        (441, 44_100, []),
        (1, 1, []),
    ],
)
def test_under_ten_milliseconds_is_too_short(frames: int, rate_hz: int, issues: list[str]) -> None:
    assert quality_issues(source(frames, rate_hz), peak=0.5) == issues


@pytest.mark.parametrize(
    ("peak", "issues"),
    [(0.0, ["too_quiet"]), (math.nextafter(0.001, 0), ["too_quiet"]), (0.001, []), (1.0, [])],
)
def test_peak_under_minus_60_dbfs_is_too_quiet(peak: float, issues: list[str]) -> None:
    assert quality_issues(source(48_000), peak) == issues


@pytest.mark.parametrize(
    ("steps", "issues"), [(8_388, ["too_quiet"]), (-8_388, ["too_quiet"]), (8_389, []), (-8_389, [])]
)
def test_the_border_of_too_quiet_lies_between_two_steps_of_24_bit(folder: Path, steps: int, issues: list[str]) -> None:
    with standardised([steps / 2**23] * 480, folder) as audio:
        assert quality_issues(source(480), audio.peak) == issues


def test_all_issues_are_told() -> None:
    assert sorted(quality_issues(source(1, truncated=True), 0.0)) == ["too_quiet", "too_short", "truncated"]
