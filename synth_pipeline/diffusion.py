"""The diffusion objective: noising, targets, and how often each time is learned."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, SchedulerMixin


class Noiser:
    """Adds noise as the base's schedule has it, and says how wrong a prediction is.

    A time that weighs less is drawn less often, and then counts in full. The mean over many samples
    is the same as of weighted losses at times drawn alike (Kingma and Gao 2023, Understanding
    Diffusion Objectives as the ELBO, section 4), and no sample is spent on what hardly counts: of
    velocities at an SNR of at most 2, weights of samples drawn alike are worth half as many.

    Args:
        scheduler: the base's; its noise schedule and its kind of prediction count.
        min_snr_gamma: the largest signal-to-noise ratio that counts in full (Hang et al. 2023,
            equation 8; for velocities divided by SNR + 1). None weighs all times alike.

    Attributes:
        weights: of each time, (T,) float64.
    """

    def __init__(self, scheduler: SchedulerMixin, min_snr_gamma: float | None) -> None:
        self._scheduler = DDPMScheduler.from_config(scheduler.config)
        self._velocity = self._scheduler.config.prediction_type == "v_prediction"
        self.weights = self._weights(min_snr_gamma)
        self._reached = self.weights.cumsum(0) / self.weights.sum()
        self._mean_weight = float(self.weights.mean())

    def times(self, shares: Sequence[float]) -> torch.Tensor:
        """The times below which those shares of all weight lie, (N,) int64.

        Args:
            shares: (N,), each from 0 to 1, without 1.
        """
        wanted = torch.tensor(shares, dtype=torch.float64)
        found = torch.searchsorted(self._reached, wanted, right=True)
        # The sum may end a rounding below 1.
        return found.clamp(max=len(self.weights) - 1)

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) latents at the times `at`, (N,)."""
        return self._scheduler.add_noise(latents, noise, at)

    def loss(
        self,
        predicted: torch.Tensor,
        latents: torch.Tensor,
        noise: torch.Tensor,
        at: torch.Tensor,
    ) -> torch.Tensor:
        """The mean square error of each sample, times the mean weight, (N,) float32."""
        wanted = self._scheduler.get_velocity(latents, noise, at) if self._velocity else noise
        squared = F.mse_loss(predicted.float(), wanted.float(), reduction="none")
        return squared.flatten(1).mean(dim=1) * self._mean_weight

    def _weights(self, gamma: float | None) -> torch.Tensor:
        signal = self._scheduler.alphas_cumprod.double()
        if gamma is None:
            return torch.ones_like(signal)
        ratio = signal / (1 - signal)
        if self._velocity:
            return ratio.clamp(max=gamma) / (ratio + 1)
        return (gamma / ratio).clamp(max=1)
