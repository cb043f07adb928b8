"""CLAP's audio engines side by side on the same windows: python benchmarks/bench_engine.py DIR --checkpoint FILE.

Each way is a process of its own that loads once and then embeds the same windows in turn with the others, --rounds
times; medians are printed, with the ratio to our f32. Compared, where installed: our engine in f32 and bf16 on this CPU
(and on CUDA, where torch sees it), stock laion_clap a call per file and with the whole list in one call, stock under
torch.inference_mode, transformers' ClapAudioModelWithProjection (its own random weights: for the speed alone), and an
onnxruntime session of the same tower. The windows are those that the program cuts from the first files of DIR.

Peak memory is each process' own. GFLOP/s is what torch's flop counter finds in our tower, over the time, for all of
them; below it the rate of a large f32 matrix product on the same cores. Run it on a quiet machine; HF_HUB_CACHE as for
the program.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.audio.windowing import WINDOW_SAMPLES, cut_windows, waveform_of
from stem_dataset.clap.audio_tower import audio_tower, full_window
from stem_dataset.clap.checkpoints import ModelCache, identify_weights
from stem_dataset.clap.session import load_clap
from stem_dataset.clap.torch_engine import load_module
from stem_dataset.config import Config
from stem_dataset.datatypes import EMBEDDING_SIZE, SAMPLE_RATE_HZ
from stem_dataset.discover import READABLE_SUFFIXES
from stem_dataset.errors import UsageError
from stem_dataset.resources import usable_cores

Float32 = npt.NDArray[np.float32]
Embed = Callable[[Sequence[Float32]], Float32]


# ------------------------------------------------------------------------------------------------------ the ways


def ours(config: Config) -> Embed:
    cache = ModelCache(config.model_cache)
    model = load_clap(identify_weights(config.checkpoint, cache), config)
    return model.get_audio_embedding_from_data


def stock_module(config: Config) -> Any:
    weights = identify_weights(config.checkpoint, ModelCache(config.model_cache))
    return load_module(weights, config, "cpu")  # CLAP_Module itself, with its weights


def stock_per_file(config: Config) -> Embed:
    module = stock_module(config)
    return lambda x: np.concatenate([module.get_audio_embedding_from_data([window]) for window in x])


def stock_single_call(config: Config) -> Embed:
    module = stock_module(config)
    return lambda x: module.get_audio_embedding_from_data(list(x))


def stock_inference_mode(config: Config) -> Embed:
    import torch

    per_file = stock_per_file(config)

    def embed(x: Sequence[Float32]) -> Float32:
        with torch.inference_mode():
            return per_file(x)

    return embed


def of_transformers(config: Config) -> Embed:
    import torch
    from transformers import ClapAudioConfig, ClapAudioModelWithProjection, ClapFeatureExtractor

    model = ClapAudioModelWithProjection(ClapAudioConfig()).eval()  # the defaults are HTSAT-tiny without fusion
    extract = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad")

    def embed(x: Sequence[Float32]) -> Float32:
        vectors = []
        with torch.inference_mode():
            for window in x:
                features = extract(window, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
                vectors.append(model(input_features=features["input_features"]).audio_embeds.numpy())
        return np.concatenate(vectors)

    return embed


def of_onnxruntime(config: Config) -> Embed:
    import onnxruntime
    import torch

    tower = audio_tower(stock_module(config), "f32")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = str(Path(folder) / "tower.onnx")
        torch.onnx.export(tower, (torch.zeros(1, WINDOW_SAMPLES),), file, dynamo=False, opset_version=17)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: np.concatenate([session.run(None, {name: full_window(window)[None]})[0] for window in x])


def on(device: Literal["cpu", "cuda"], precision: Literal["f32", "bf16"]) -> Callable[[Config], Embed]:
    return lambda config: ours(dataclasses.replace(config, device=device, precision=precision))


WAYS: dict[str, Callable[[Config], Embed]] = {
    "ours, f32": on("cpu", "f32"),
    "ours, bf16": on("cpu", "bf16"),
    "ours, CUDA f32": on("cuda", "f32"),
    "ours, CUDA bf16": on("cuda", "bf16"),
    "stock laion_clap, a call per file": stock_per_file,
    "stock, a call per file, inference_mode": stock_inference_mode,
    "stock, one call with the whole list": stock_single_call,
    "transformers, a call per file": of_transformers,
    "onnxruntime, a call per file": of_onnxruntime,
}


# ------------------------------------------------------------------------------------------------------ a process


def peak_bytes() -> int:
    """Return the most memory that this process has had (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def be_a_way(name: str, windows_file: str, config: Config) -> None:
    """Load, say so, and embed all windows for each line on stdin; print the seconds of each time."""
    answers = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            embed = WAYS[name](config)
            windows = list(np.load(windows_file, allow_pickle=True))
            embed(windows[:2])  # warm
        answer: dict[str, Any] = {}
    except (ImportError, UsageError) as error:
        answer = {"missing": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(answer), file=answers, flush=True)
    for _ in sys.stdin if "missing" not in answer else ():
        started = time.perf_counter()
        vectors = embed(windows)
        seconds = time.perf_counter() - started
        assert vectors.shape == (len(windows), EMBEDDING_SIZE)
        print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}), file=answers, flush=True)


class Way:
    """One of the ways, as a process that waits for its turn."""

    def __init__(self, name: str, windows_file: Path, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--be", name, "--windows-file", str(windows_file), str(options.folder)]
        command += ["--checkpoint", str(options.checkpoint), "--model-cache", str(options.model_cache)]
        pipe, errors = subprocess.PIPE, None if options.verbose else subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True)
        self.started = self.answer()
        self.times_s: list[float] = []
        self.peak_bytes = 0

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": f"ended with {self.process.wait()}"}

    def take_turn(self) -> None:
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        answer = self.answer()
        self.times_s.append(answer["seconds"])
        self.peak_bytes = answer["peak_bytes"]

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# ------------------------------------------------------------------------------------------------------ the table


def cut_windows_of(folder: Path, count: int) -> list[Float32]:
    """Return the first `count` windows of the files in `folder`, as the program hands them to CLAP."""
    windows: list[Float32] = []
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in READABLE_SUFFIXES or len(windows) >= count:
                continue
            audio_to_be = StandardisedAudio(Path(scratch))
            with (
                contextlib.suppress(Exception),
                path.open("rb") as file,
                audio_to_be as audio,
            ):  # a broken file has none
                standardise(file, audio, 21_600.0)
                windows += [waveform_of(window) for window in cut_windows(audio, 8)]
    return windows[:count]


def window_gflop(config: Config) -> float:
    """Return what torch counts in the tower's forward pass of one window."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    tower = audio_tower(stock_module(config), "f32")
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        tower(torch.zeros(1, WINDOW_SAMPLES))
    return counter.get_total_flops() / 1e9


def sgemm_gflops() -> float:
    """Return the rate of a large f32 matrix product on the CPU's cores: the best of five, by torch."""
    import torch

    size = 2_048
    a = torch.rand(size, size)
    rates = []
    for _ in range(6):
        started = time.perf_counter()
        a @ a
        rates.append(2 * size**3 / (time.perf_counter() - started) / 1e9)
    return max(rates)


def print_gpu_floors(gflop: float) -> None:
    """Print what the GPU's matrix rate and the copy to it would allow, as windows a second."""
    import torch

    if not torch.cuda.is_available():
        return
    size = 8_192
    a = torch.rand(size, size, device="cuda")
    pinned = torch.empty(64, WINDOW_SAMPLES, pin_memory=True)

    def seconds(call: Callable[[], object]) -> float:
        call()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(5):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / 5

    rate = 2 * size**3 / seconds(lambda: a @ a) / 1e9
    copies = len(pinned) / seconds(lambda: pinned.to("cuda", non_blocking=True))
    print(f"{torch.cuda.get_device_name()}: sgemm {rate:.0f} GFLOP/s, so at most {rate / gflop:.0f} windows/s in f32;")
    print(f"  the copies from pinned memory allow {copies:.0f} windows/s")


def print_table(ways: dict[str, Way], windows: int, gflop: float, sgemm: float) -> None:
    """Print each way's medians, and how our f32 compares with it in the same round."""
    ours_s = ways["ours, f32"].times_s
    print(f"{'':40} {'ms a window':>24} {'windows/s':>10} {'GFLOP/s':>8} {'peak GB':>8}  ours f32 is faster by")
    for name, way in ways.items():
        if "missing" in way.started:
            print(f"{name:40} not here: {way.started['missing']}")
            continue
        each_ms = [seconds / windows * 1e3 for seconds in way.times_s]
        median = statistics.median(each_ms)
        ratios = sorted(theirs / mine for theirs, mine in zip(way.times_s, ours_s, strict=True))
        spread = f"{median:.1f} ({min(each_ms):.1f} to {max(each_ms):.1f})"
        print(
            f"{name:40} {spread:>24} {1e3 / median:10.1f} "
            f"{gflop / median * 1e3:8.0f} {way.peak_bytes / 1e9:8.2f}  "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    print(f"{gflop:.1f} GFLOP a window; sgemm on the same cores: {sgemm:.0f} GFLOP/s")


def compare(options: argparse.Namespace, config: Config) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        windows = cut_windows_of(options.folder, options.windows)
        array = np.empty(len(windows), dtype=object)
        array[:] = windows
        np.save(Path(scratch) / "windows.npy", array, allow_pickle=True)
        names = [name for name in WAYS if name == "ours, f32" or options.only in name]
        ways = {name: Way(name, Path(scratch) / "windows.npy", options) for name in names}
        here = [way for way in ways.values() if "missing" not in way.started]
        for _ in range(options.rounds):
            for way in here:
                way.take_turn()
        for way in here:
            way.end()
    gflop = window_gflop(config)
    print(f"{len(windows)} windows, {options.rounds} rounds, {usable_cores()} cores; median (least to most)")
    print_table(ways, len(windows), gflop, sgemm_gflops())
    print_gpu_floors(gflop)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of audio; it is read, not touched")
    parser.add_argument("--checkpoint", required=True, help="as for the program")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="TEXT", help="the ways whose name contains it, and ours in f32")
    parser.add_argument("--model-cache", type=Path, default=None)
    parser.add_argument("-v", dest="verbose", action="store_true", help="show what the ways say")
    parser.add_argument("--be", help=argparse.SUPPRESS)  # one of the ways, in its own process
    parser.add_argument("--windows-file", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.model_cache = options.model_cache or ModelCache(None).folder
    config = Config(checkpoint=options.checkpoint, model_cache=options.model_cache)
    if options.be:
        be_a_way(options.be, options.windows_file, config)
    else:
        compare(options, config)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
