"""Code in a worker process: its start, its limits, its self-test and its tasks."""

from __future__ import annotations

import faulthandler
import io
import logging
import logging.handlers
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from stem_dataset.audio.standardise import standardise
from stem_dataset.audio.wav import StandardisedAudio
from stem_dataset.datatypes import Float64, FoundFile
from stem_dataset.errors import MachineFault, blaming_the_program, text_of_error
from stem_dataset.files import check_unchanged, open_regular, sha256_of
from stem_dataset.logs import log
from stem_dataset.music.features import analyse
from stem_dataset.music.tempo import MIN_RHYTHM_S
from stem_dataset.output_folders import scratch_folder
from stem_dataset.resources import beyond_the_memory_limit
from stem_dataset.signals import STOP_SIGNALS
from stem_dataset.workers.tasks import RunContext, TaskReport, Work, as_fault, time_limit_s


def hash_file(found: FoundFile, run_context: RunContext, report: TaskReport | None = None) -> str:
    """Return the sha256 of a file; raises `MachineFault` if it is unreadable."""
    try:
        with blaming_the_program(), open_regular(found.path) as file:
            digest = sha256_of(file)
            check_unchanged(file, found)
            return digest
    except Exception as error:
        raise as_fault(error, found) from None


def run_tasks(work: Work, files: Sequence[FoundFile], run_context: RunContext) -> list[TaskReport]:
    """Do `work` to each of `files` in a worker, and return the reports."""
    return [run_task(work, found, run_context) for found in files]


def run_task(work: Work, found: FoundFile, run_context: RunContext) -> TaskReport:
    """Do `work` to one file, and return the report with its log lines.

    A log queue shared by all workers would block for ever if one of them were killed while writing to it.
    """
    report = TaskReport(found)
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(lines)
    log.addHandler(handler)
    # A timer in a Python thread cannot fire while C code holds the GIL. This one has a C thread, and ends the process.
    faulthandler.dump_traceback_later(time_limit_s(found, run_context), exit=True)
    begun_s, begun_cpu_s = time.monotonic(), time.process_time()
    try:
        result = work(found, run_context, report)
        if isinstance(result, str):
            report.sha256 = result
        else:
            report.processed = result
    except MachineFault as fault:
        report.fault = fault
    except MemoryError as error:
        report.memory_error = str(error)
    finally:
        faulthandler.cancel_dump_traceback_later()
        log.removeHandler(handler)
    report.seconds, report.cpu_s = time.monotonic() - begun_s, time.process_time() - begun_cpu_s
    while not lines.empty():
        report.log_records.append(lines.get())
    return report


def self_test(run_context: RunContext) -> str | None:
    """Return what is broken in this installation, or None.

    A tone is written as WAV, FLAC, Ogg and MP3 (libsndfile) and as AAC (FFmpeg), read back and analysed. One of the
    tones is long enough for the rhythm analysis. Without this test, a broken decoder would send a whole library to
    quarantine.
    """
    rate_hz = 44_100
    for container, duration_s in {"WAV": MIN_RHYTHM_S, "FLAC": 0.1, "OGG": 0.1, "MP3": 0.1, "AAC": 0.1}.items():
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(duration_s * rate_hz)) / rate_hz)
        try:
            file = io.BytesIO()
            if container == "AAC":
                _write_aac(file, tone, rate_hz)
            else:
                soundfile.write(file, tone, rate_hz, format=container)
            with StandardisedAudio(scratch_folder(run_context.stems, run_context.quarantine)) as audio:
                standardise(file, audio, max_duration_s=2 * MIN_RHYTHM_S)
                analyse(audio)
        except Exception as error:
            return f"{container}: {text_of_error(error)}"
        if not 0.4 < audio.peak < 0.6:
            return f"{container}: a tone with a peak of 0.5 came back with {audio.peak:.3f}"
    return None


def _write_aac(file: io.BytesIO, samples: Float64, rate_hz: int) -> None:
    """Write `samples`, shape (n,), as an .m4a file, which only FFmpeg's libraries read."""
    with beyond_the_memory_limit():
        import av
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[np.newaxis], "fltp", "mono")
        frame.sample_rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def start_worker(log_file: str, memory_bytes: int | None) -> None:
    """Prepare a worker process; the executor calls this first.

    The worker ignores Ctrl-C, which the parent handles. It sends the output of C libraries to the log file, ends when
    its parent does, and keeps to its memory limit.
    """
    import threadpoolctl

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # see `signals_blocked`
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    descriptor = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    # libmpg123 and cffi write to the C-level stderr, which would break the progress bar.
    os.dup2(descriptor, 2)
    os.close(descriptor)
    faulthandler.enable()
    log.setLevel(logging.DEBUG)
    log.propagate = False
    # The workers already keep all cores busy, so each uses one thread. Environment variables have no effect any more,
    # since numpy is already loaded.
    threadpoolctl.threadpool_limits(1)
    if memory_bytes is not None:
        limit_memory(memory_bytes)


def limit_memory(memory_bytes: int) -> None:
    """Allow this process this much more memory than it has now (Linux only).

    Beyond that, allocations raise MemoryError. The limit applies to the address space. The program alone uses 0.6 GB of
    that, mostly for libraries and the stack reserve of each thread.
    """
    import resource

    # OpenBLAS allocates its buffer at first use, and loops for ever if there is no room for it.
    np.ones((512, 512)) @ np.ones((512, 512))
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _exit_with_parent() -> None:
    """End this worker when its parent has ended, even by kill -9.

    Without this, workers of a fork server and spawned ones would live on for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
