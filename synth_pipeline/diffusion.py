"""The diffusion objective: noising, targets, and the weight of each time."""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, SchedulerMixin


class Noiser:
    """Adds noise as the base's schedule has it, and says how wrong a prediction is.

    Args:
        scheduler: the base's; its noise schedule and its kind of prediction count.
        min_snr_gamma: the largest signal-to-noise ratio that counts in full (Hang et al. 2023,
            equation 8; for velocities divided by SNR + 1). None weighs all times alike.
    """

    def __init__(self, scheduler: SchedulerMixin, min_snr_gamma: float | None) -> None:
        self._scheduler = DDPMScheduler.from_config(scheduler.config)
        self._velocity = self._scheduler.config.prediction_type == "v_prediction"
        self._gamma = min_snr_gamma
        self.times: int = self._scheduler.config.num_train_timesteps

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
        """The weighted mean square error of each sample, (N,) float32."""
        wanted = self._scheduler.get_velocity(latents, noise, at) if self._velocity else noise
        squared = F.mse_loss(predicted.float(), wanted.float(), reduction="none")
        return squared.flatten(1).mean(dim=1) * self._weight(at)

    def _weight(self, at: torch.Tensor) -> torch.Tensor:
        if self._gamma is None:
            return torch.ones_like(at, dtype=torch.float32)
        signal = self._scheduler.alphas_cumprod.to(at.device)[at].float()
        ratio = signal / (1 - signal)
        if self._velocity:
            return ratio.clamp(max=self._gamma) / (ratio + 1)
        return (self._gamma / ratio).clamp(max=1)
