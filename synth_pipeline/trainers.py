"""What of the base model learns in DreamBooth: adapters of several concepts, or all of it.

A trainer owns what the optimiser moves (`leaves`); which part of it is one concept's; and how that
is saved. K is the number of concepts.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from synth_pipeline import adapters
from synth_pipeline.base_model import BaseModel
from synth_pipeline.config import DreamBoothConfig
from synth_pipeline.loaded_base import LoadedBase, load_pipeline, new_accelerator

#: The file of a concept's adapters, under the name that diffusers looks for.
WEIGHTS = "pytorch_lora_weights.safetensors"
#: The layers of a CLIP text encoder are saved under the names they had before transformers 5,
#: which is how files of adapters are exchanged.
_TEXT_PREFIX = "text_model."


class LoraTrainer:
    """Adapters on layers of the shared base, for K concepts at once; taken off when done."""

    def __init__(self, loaded: LoadedBase, config: DreamBoothConfig, seeds: Sequence[int]) -> None:
        self.pipeline = loaded.pipeline
        self.trains_text = config.lora_text_encoder
        unet = self.pipeline.unet
        layers = (
            adapters.attention_layers(unet)
            if config.lora_targets == "attention"
            else adapters.block_layers(unet)
        )
        self._unet = adapters.Adapters(unet, layers, config.rank, seeds)
        self._all = [self._unet]
        if self.trains_text:
            text_encoder = self.pipeline.text_encoder
            layers = adapters.attention_layers(text_encoder)
            # Other seeds than the UNet's, or both would begin with the same numbers.
            others = [seed ^ 1 for seed in seeds]
            self._all.append(adapters.Adapters(text_encoder, layers, config.rank, others))
        self.leaves = [each.weights for each in self._all]

    def clip(self, norm: float) -> None:
        """Bound the norm of each concept's own gradient."""
        gradients = [leaf.grad for leaf in self.leaves if leaf.grad is not None]
        norms_K = (
            torch.stack([gradient.square().sum(dim=1) for gradient in gradients]).sum(0).sqrt()
        )
        for gradient in gradients:
            gradient.mul_((norm / (norms_K + 1e-6)).clamp(max=1)[:, None])

    def forget_gradients(self) -> None:
        """Set the gradients to zero."""
        for leaf in self.leaves:
            assert leaf.grad is not None
            leaf.grad.zero_()

    @staticmethod
    def part(of: torch.Tensor, leaf: torch.Tensor, concept: int) -> torch.Tensor:
        """One concept's part of a leaf, or of something that has its shape."""
        return of[concept].clone() if of.shape == leaf.shape else of

    @staticmethod
    def join(parts: Sequence[torch.Tensor], leaf: torch.Tensor) -> torch.Tensor:
        """What `part` took apart."""
        return torch.stack(list(parts)) if parts[0].shape == leaf.shape[1:] else parts[0]

    def save(self, concept: int, values: Sequence[torch.Tensor], out_dir: Path) -> None:
        """Write a concept's adapters in the format of diffusers' `load_lora_weights`.

        Args:
            concept: its number.
            values: the leaves, or averages of them.
            out_dir: gets `pytorch_lora_weights.safetensors`.
        """
        # As peft names them. diffusers' own conversion renames the attention's layers only; of a
        # file in which others are adapted too, `load_lora_weights` then drops the attention.
        found = [each.of_concept(concept, v) for each, v in zip(self._all, values, strict=True)]
        text = (
            {f"{_TEXT_PREFIX}{name}": value for name, value in found[1].items()}
            if found[1:]
            else None
        )
        StableDiffusionPipeline.save_lora_weights(
            out_dir,
            unet_lora_layers=found[0],
            text_encoder_lora_layers=text,
            safe_serialization=True,
        )

    def close(self) -> None:
        """Give the base back as it was."""
        for each in self._all:
            each.close()


def load_adapters(concept_dir: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Read what `LoraTrainer.save` wrote: network (`unet`, `text_encoder`) to its adapters."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in load_file(concept_dir / WEIGHTS).items():
        network, layer = name.split(".", 1)
        found.setdefault(network, {})[layer.removeprefix(_TEXT_PREFIX)] = value
    return found


class FullTrainer:
    """All weights of UNet and text encoder, as published, on a copy of the base."""

    def __init__(self, loaded: LoadedBase) -> None:
        self.pipeline = loaded.pipeline
        self.trains_text = True
        unet = self.pipeline.unet.requires_grad_(True)
        text_encoder = self.pipeline.text_encoder.requires_grad_(True)
        self.leaves = [*unet.parameters(), *text_encoder.parameters()]

    def clip(self, norm: float) -> None:
        """Bound the norm of the gradient."""
        torch.nn.utils.clip_grad_norm_(self.leaves, norm)

    def forget_gradients(self) -> None:
        """Let the gradients go."""
        for leaf in self.leaves:
            leaf.grad = None

    @staticmethod
    def part(of: torch.Tensor, leaf: torch.Tensor, concept: int) -> torch.Tensor:
        """All of it: there is one concept only."""
        return of

    @staticmethod
    def join(parts: Sequence[torch.Tensor], leaf: torch.Tensor) -> torch.Tensor:
        """The one part."""
        return parts[0]

    def save(self, concept: int, values: Sequence[torch.Tensor], out_dir: Path) -> None:
        """Write both models as diffusers and transformers load them.

        Args:
            concept: 0.
            values: the leaves, or averages of them.
            out_dir: gets `unet/` and `text_encoder/`.
        """
        with torch.no_grad():
            for leaf, value in zip(self.leaves, values, strict=True):
                leaf.copy_(value)
        for name in ("unet", "text_encoder"):
            module = getattr(self.pipeline, name)
            module.save_pretrained(out_dir / name, safe_serialization=True)
            # save_pretrained notes where the base was read from; a place is no content.
            path = out_dir / name / "config.json"
            settings = json.loads(path.read_text())
            settings.pop("_name_or_path", None)
            path.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")

    def close(self) -> None:
        """Nothing to give back: the copy goes with its owner."""


Trainer = LoraTrainer | FullTrainer


def own_copy(base: BaseModel) -> LoadedBase:
    """The base read afresh: training in full would spoil the shared one."""
    accelerator = new_accelerator(base.precision)
    pipeline = load_pipeline(base.folder, base.vae_folder).to(accelerator.device)
    pipeline.vae.requires_grad_(False)
    return LoadedBase(pipeline, accelerator)
