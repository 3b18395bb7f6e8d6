"""What the autoencoder learns from: pictures given back, their edges above all."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from synth_pipeline.phantom.base_parts import SIZE_PX
from synth_pipeline.progress import Progress

_BATCH = 8
#: What a denoiser leaves undone, as a share of the latents' own unit.
_LATENT_NOISE = 0.05


def autoencoder_loss(
    autoencoder: AutoencoderKL, pictures: np.ndarray, seed: int, step: int
) -> torch.Tensor:
    """How far one step's pictures are from what encoder and decoder make of them.

    Args:
        autoencoder: both halves learn.
        pictures: (N, 128, 128, 3) uint8 sRGB.
        seed: with the step, decides the batch and the noise.
        step: of this training.
    """
    rng = np.random.default_rng([seed, 4, step])
    x = _batch(pictures, rng.integers(len(pictures), size=_BATCH))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    posterior = autoencoder.encode(x).latent_dist
    y = autoencoder.decode(posterior.sample(generator)).sample
    return _distance(y - x) + 1e-6 * posterior.kl().mean()


def finishing_loss(
    autoencoder: AutoencoderKL, pictures: np.ndarray, seed: int, step: int
) -> torch.Tensor:
    """How far one step's pictures are from what the decoder makes of their latents' means.

    The denoiser will know the means only. Drawing from the posterior silences channels, which then
    carry noise (measured: three of eight); here they learn to carry something. Large areas of
    colour count, because they are what the autoencoder learns last.
    """
    rng = np.random.default_rng([seed, 6, step])
    x = _batch(pictures, rng.integers(len(pictures), size=_BATCH))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    mean = autoencoder.encode(x).latent_dist.mean
    z = mean + _LATENT_NOISE * torch.randn(mean.shape, generator=generator)
    y = autoencoder.decode(z.contiguous(memory_format=torch.channels_last)).sample
    # Without a bound the means would grow until the noise is nothing.
    return _distance(y - x) + F.avg_pool2d(y - x, 8).abs().mean() + 2e-3 * mean.square().mean()


def _batch(pictures: np.ndarray, chosen: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(pictures[chosen]).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return x.contiguous(memory_format=torch.channels_last)


def _distance(difference: torch.Tensor) -> torch.Tensor:
    """L1 of pixels and of their differences, at two scales.

    The differences keep lids and lips sharp, where a phenotype is; the middle of the picture, which
    holds the face, counts double.
    """
    weight = torch.ones(difference.shape[-2:])
    edge = SIZE_PX // 5
    weight[edge:-edge, edge:-edge] = 2.0
    loss = (difference.abs() * weight).mean()
    for level in (1, 2):
        d = F.avg_pool2d(difference, level) if level > 1 else difference
        w = weight[::level, ::level]
        loss = loss + ((d[..., :, 1:] - d[..., :, :-1]).abs() * w[:, 1:]).mean()
        loss = loss + ((d[..., 1:, :] - d[..., :-1, :]).abs() * w[1:, :]).mean()
    return loss


@torch.no_grad()
def encode_all(
    autoencoder: AutoencoderKL, pictures: np.ndarray, path: Path, progress: Progress
) -> np.ndarray:
    """The latents' means of all pictures, (N, 8, 16, 16) float32, kept for the next start."""
    if path.exists():
        return np.load(path)
    found = []
    for start in range(0, len(pictures), 50):
        x = torch.from_numpy(pictures[start : start + 50]).permute(0, 3, 1, 2).float()
        found.append(autoencoder.encode(x.div(127.5).sub(1)).latent_dist.mean.numpy())
        progress(min(start + 50, len(pictures)), len(pictures), "encoding")
    # In one fixed memory order, as a file has it: the denoiser's kernels, and so its last bits,
    # depend on the order, and a resumed training reads the file.
    latents = np.ascontiguousarray(np.concatenate(found))
    beside = path.with_suffix(".part.npy")
    np.save(beside, latents)
    beside.replace(path)
    return latents
