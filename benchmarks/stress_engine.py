"""How often a fresh start of CLAP's engine computes wrong vectors:
python benchmarks/stress_engine.py --checkpoint FILE [--starts 600] [--way program|streams]

Each start is a process of its own. It compiles the kept tower while a pool of worker processes starts beside it, as a
run does, and embeds the reference signal several times on every stream. A start is wrong where one vector has a cosine
under 0.99999 with stock laion_clap's. Printed are each wrong start, the count, and the machine's load meanwhile.

`program` is the program's engine, each of whose streams has compiled models of its own, without its guard that builds a
wrong engine again. `streams` is how versions up to 0.1.0 set OpenVINO up: one compiled model of each part with as many
streams as cores. On 2 idle cores with AVX512, OpenVINO 2026.4.1 was wrong by that in 1 to 2 of 100 starts. At that rate
600 right starts in a row come by luck once in 8,000 times. A busy machine hides the fault, since two streams then
hardly run at the same moment: run this on an idle one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stem_dataset.audio.windowing import waveform_of
from stem_dataset.clap.audio_tower import power_spectrum
from stem_dataset.clap.checkpoints import ModelCache, Weights, identify_weights
from stem_dataset.clap.engine import reference_signal, reference_window
from stem_dataset.clap.openvino_engine import import_openvino, read_tower, tower_name
from stem_dataset.clap.session import build_engine
from stem_dataset.config import Config
from stem_dataset.logs import log
from stem_dataset.resources import usable_cores
from stem_dataset.workers.local_pool import WORKER_IMPORTS

ROUNDS = 2  # of all streams, after the check that the engine makes of itself
LEAST_COSINE = 0.999_99
Float32 = npt.NDArray[np.float32]


def by_program(config: Config, weights: Weights) -> list[float]:
    """Return the cosines of the program's engine."""
    engine = build_engine(weights, config)
    proofs = [engine.embed([waveform_of(reference_signal())] * 2) for _ in range(ROUNDS)]
    return [
        float(cosine) for vectors, streams in proofs for cosine in np.concatenate([vectors, streams]) @ engine.stock
    ]


def by_streams(config: Config, weights: Weights) -> list[float]:
    """Return the cosines of one compiled model of the transformer with a stream for each core."""
    openvino = import_openvino()
    # The program must have run once: it keeps the compiled tower.
    parts, card = read_tower(ModelCache(config.model_cache).folder_of(weights) / tower_name(), weights)
    core = openvino.Core()
    lone = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    first, last = (core.compile_model(part, "CPU", lone) for part in (parts[0], parts[2]))
    shared = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": usable_cores()}
    transformer = core.compile_model(
        parts[1], "CPU", {**shared, "ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": "f32"}
    )
    power = power_spectrum(reference_window(), parts[0].input(0).shape[-1])[None, None]
    image = np.array(first({0: power})[0])
    latents: list[Float32] = []
    requests = openvino.AsyncInferQueue(transformer)
    requests.set_callback(lambda request, _: latents.append(request.get_output_tensor().data.copy()))
    for _ in range(4 * ROUNDS):
        requests.start_async({0: image}, None)
    requests.wait_all()
    return [float(last({0: latent})[0][0] @ np.array(card["reference_vector"])) for latent in latents]


WAYS: dict[str, Callable[[Config, Weights], list[float]]] = {
    "program": by_program,
    "streams": by_streams,
}


def be_a_start(way: str, config: Config) -> None:
    """Start a pool and an engine, as a run does, and print the cosines."""
    log.setLevel("ERROR")
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(WORKER_IMPORTS)
    pool = ProcessPoolExecutor(2, context)
    for _ in range(4):
        pool.submit(sum, [1, 2])
    weights = identify_weights(config.checkpoint, ModelCache(config.model_cache))
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.extend(WAYS[way](config, weights)))  # a run has a model thread
    thread.start()
    thread.join()
    print(json.dumps(found), flush=True)
    pool.shutdown(cancel_futures=True)
    os._exit(0)  # as the program ends


def main() -> int:
    """Start again and again and return 1 where a start was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--model-cache", type=Path, default=None)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--starts", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no start after so many")
    parser.add_argument("--way", choices=WAYS, default="program")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = Config(
        checkpoint=options.checkpoint, model_cache=options.model_cache, device="cpu", precision=options.precision
    )
    if options.start:
        be_a_start(options.way, config)
    wrong = done = vectors = 0
    least, started = LEAST_COSINE if options.precision == "f32" else 0.999_9, time.monotonic()
    while done < options.starts and time.monotonic() - started < options.seconds:
        command = [sys.executable, "-W", "ignore", __file__, "--start", *sys.argv[1:]]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300)
        lines = child.stdout.splitlines()
        cosines = json.loads(lines[-1]) if lines else []
        done, vectors = done + 1, vectors + len(cosines)
        if not cosines or not min(cosines) >= least:
            wrong += 1
            print(f"start {done}: {[round(cosine, 6) for cosine in cosines] or 'no vectors'}", flush=True)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{options.way}, {options.precision}: {wrong} of {done} starts wrong, {vectors} vectors{load}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
