"""The audio side of CLAP: from a window to its vector.

The steps are those of laion_clap.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from stem_dataset.audio.windowing import WINDOW_SAMPLES, WINDOW_STEPS, waveform_of
from stem_dataset.datatypes import Float32

# Samples per frame of the spectrogram, and between two frames, in every checkpoint.
CLAP_N_FFT = 1_024
CLAP_HOP = 480


def full_window(waveform: Float32) -> Float32:
    """Return `waveform` as laion_clap prepares it.

    That is: int16 steps, whole copies ("repeatpad"), then zeros to 480,000 samples.
    """
    length = len(waveform)
    if not 0 < length <= WINDOW_SAMPLES:
        raise ValueError(f"a window of {length} samples: 1 to {WINDOW_SAMPLES} are allowed")
    window = np.zeros(WINDOW_SAMPLES, np.float32)
    whole_copies = WINDOW_SAMPLES // length
    steps = (np.clip(waveform, -1, 1) * np.float32(WINDOW_STEPS)).astype(np.int16)
    window[: whole_copies * length].reshape(whole_copies, length)[:] = waveform_of(steps)
    return window


def audio_tower(module: Any, precision: str) -> Any:
    """Return the audio side of a `CLAP_Module` as one torch module.

    It turns full windows (N, 480000) into unit vectors (N, 512). The steps are those of `CLAP.get_audio_embedding` and
    `HTSAT_Swin_Transformer.forward` in laion_clap 1.1.7. Omitted are 214 of the 513 frequencies, above 14 kHz, which no
    mel filter uses: 0.9 of 14.1 GFLOP.
    """
    import torch

    class AudioTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = module.model.audio_branch
            self.projection = module.model.audio_projection
            stft, mel = self.branch.spectrogram_extractor.stft, self.branch.logmel_extractor.melW
            used = int(mel.any(dim=1).nonzero().max()) + 1
            self.mel = torch.nn.Parameter(mel[:used], requires_grad=False)
            waves = torch.cat([stft.conv_real.weight[:used], stft.conv_imag.weight[:used]])
            self.waves = torch.nn.Parameter(waves, requires_grad=False)
            self.pad, self.stride = stft.n_fft // 2, stft.conv_real.stride

        def power(self, windows: torch.Tensor) -> torch.Tensor:
            padded = torch.nn.functional.pad(windows[:, None], (self.pad, self.pad), mode="reflect")
            real, imag = torch.nn.functional.conv1d(padded, self.waves, stride=self.stride).chunk(2, dim=1)
            return (real**2 + imag**2).transpose(1, 2)[:, None]

        def image(self, power: torch.Tensor) -> torch.Tensor:
            log_mel = self.branch.logmel_extractor.power_to_db(power @ self.mel)
            scaled = self.branch.bn0(log_mel.transpose(1, 3)).transpose(1, 3)
            return self.branch.reshape_wav2img(scaled)  # type: ignore[no-any-return]

        def transformer(self, image: torch.Tensor) -> torch.Tensor:
            # Only the transformer may run in bf16: with the spectrogram in bf16 the cosine with f32 falls to 0.5.
            with torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bf16"):
                latent = self.branch.forward_features(image)["embedding"]
            return latent.to(image.dtype)  # type: ignore[no-any-return]

        def project(self, latent: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.projection(latent), dim=-1)

        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            return self.project(self.transformer(self.image(self.power(windows))))

    return AudioTower().eval()


def tower_parts(tower: Any) -> dict[str, Any]:
    """Return the steps of an `audio_tower` by `TOWER_PARTS`.

    Each is a torch module. The power spectrum is not among them.
    """
    import torch

    class Part(torch.nn.Module):
        def __init__(self, step: str) -> None:
            super().__init__()
            self.tower = tower
            self.step = step

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return getattr(self.tower, self.step)(value)  # type: ignore[no-any-return]

    return {name: Part(step).eval() for name, step in zip(TOWER_PARTS, TOWER_STEPS, strict=True)}


def power_spectrum(window: Float32, frequencies: int) -> Float32:
    """Return the power spectrum of a full window, (480000,), as in laion_clap's spectrogram.

    The result is (1001, `frequencies`) float32, from 0 Hz upwards: one frame every 10 ms, under a Hann window of 1,024
    samples. laion_clap multiplies by a matrix of sines (torchlibrosa.stft.STFT). An FFT takes a fifth of the time, and
    is closer to the exact values.
    """
    import scipy.fft

    padded = np.pad(window, CLAP_N_FFT // 2, mode="reflect")
    frames = sliding_window_view(padded, CLAP_N_FFT)[::CLAP_HOP] * hann_window()
    spectrum = scipy.fft.rfft(frames, overwrite_x=True)[:, :frequencies]
    return np.asarray(spectrum.real**2 + spectrum.imag**2)


@functools.cache
def hann_window() -> Float32:
    """Return the periodic Hann window, (1024,) float32, of laion_clap's spectrogram."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(CLAP_N_FFT) / CLAP_N_FFT), np.float32)


# The parts are compiled separately, since only the second may run in bf16.
TOWER_PARTS = ("spectrogram", "transformer", "projection")
# The steps of `audio_tower`; each takes the result of the one before.
TOWER_STEPS = ("image", "transformer", "project")
