"""What the autoencoder learns from: pictures given back, their edges above all."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from synth_pipeline import backbones, checkpoints
from synth_pipeline.phantom.base_parts import SIZE_PX
from synth_pipeline.progress import Progress

_BATCH = 8
_READER = "mobilenetv3_small_075"
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


class ShapeReader:
    """The embedded recogniser as an eye: what it sees in two pictures, and how far that is apart.

    It was trained to read a phantom's shape (`train_backbone`), so it looks where landmarks lie,
    as a perceptual loss does for things (Johnson et al. 2016, section 3.2).
    """

    def __init__(self) -> None:
        model, norm = backbones.create(_READER, classes=1, pretrained="embedded", dropout=0.0)
        self._model = model.eval().requires_grad_(False)
        self._mean = torch.tensor(norm.mean).view(3, 1, 1)
        self._deviation = torch.tensor(norm.deviation).view(3, 1, 1)

    def distance(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Mean over three depths of the relative L1 between (N, 3, 128, 128) in -1..1."""
        with torch.no_grad():
            wanted = self._features(x)
        parts = [
            (a - b).abs().mean() / b.abs().mean()
            for a, b in zip(self._features(y), wanted, strict=True)
        ]
        return torch.stack(parts).mean()

    def _features(self, x: torch.Tensor) -> list[torch.Tensor]:
        normalised = ((x + 1) / 2 - self._mean) / self._deviation
        return self._model.forward_intermediates(
            normalised, indices=[0, 1, 2], stop_early=True, intermediates_only=True
        )


def sharpening_loss(
    autoencoder: AutoencoderKL,
    reader: ShapeReader,
    pictures: np.ndarray,
    latents: np.ndarray,
    seed: int,
    step: int,
) -> torch.Tensor:
    """How far one step's pictures are from what comes back, to the eye of a reader of shapes too.

    The latents stay near those that the denoiser is trained on, so that both can be trained at the
    same time.
    """
    rng = np.random.default_rng([seed, 7, step])
    chosen = rng.integers(len(pictures), size=_BATCH)
    x = _batch(pictures, chosen)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    mean = autoencoder.encode(x).latent_dist.mean
    z = mean + _LATENT_NOISE * torch.randn(mean.shape, generator=generator)
    y = autoencoder.decode(z.contiguous(memory_format=torch.channels_last)).sample
    strayed = (mean - torch.from_numpy(latents[chosen])).square().mean()
    given_back = _distance(y - x) + F.avg_pool2d(y - x, 8).abs().mean()
    return given_back + 2 * reader.distance(y, x) + 2 * strayed


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
    identity = "latents"
    if (state := checkpoints.load(path, identity)) is not None:
        return state["latents"].numpy()
    found = []
    for start in range(0, len(pictures), 50):
        x = torch.from_numpy(pictures[start : start + 50]).permute(0, 3, 1, 2).float()
        found.append(autoencoder.encode(x.div(127.5).sub(1)).latent_dist.mean.numpy())
        progress(min(start + 50, len(pictures)), len(pictures), "encoding")
    # In one fixed memory order, as a file has it: the denoiser's kernels, and so its last bits,
    # depend on the order, and a resumed training reads the file.
    latents = np.ascontiguousarray(np.concatenate(found))
    checkpoints.save(path, {"identity": identity, "latents": torch.from_numpy(latents)})
    return latents
