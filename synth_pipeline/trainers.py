"""What of the base model learns in DreamBooth: adapters of several concepts, or all of it.

A trainer owns what the optimiser moves (`leaves`); which part of it is one concept's; and how that
is saved. K is the number of concepts.
"""

import json
from abc import ABC, abstractmethod
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


class Trainer(ABC):
    """What both ways of training share.

    Attributes:
        pipeline: whose UNet learns.
        trains_text: whether its text encoder learns too.
        leaves: what the optimiser moves, each (K, P); their gradients are there from the start.
    """

    pipeline: StableDiffusionPipeline
    trains_text: bool
    leaves: list[torch.Tensor]

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

    @abstractmethod
    def save(self, concept: int, values: Sequence[torch.Tensor], out_dir: Path) -> None:
        """Write a concept.

        Args:
            concept: its number.
            values: the leaves, or averages of them.
            out_dir: gets the weights.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the base back as it was."""


class LoraTrainer(Trainer):
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


class FullTrainer(Trainer):
    """All weights of UNet and text encoder, as published, on a copy of the base."""

    def __init__(self, loaded: LoadedBase) -> None:
        self.pipeline = loaded.pipeline
        self.trains_text = True
        # Convolutions of one picture are faster with the channels last (measured: a tenth).
        self.pipeline.unet.to(memory_format=torch.channels_last)
        modules = (self.pipeline.unet, self.pipeline.text_encoder)
        weights = [weight for module in modules for weight in module.parameters()]
        leaf = torch.empty(1, sum(w.numel() for w in weights), device=weights[0].device)
        leaf.grad = torch.zeros_like(leaf)
        start = 0
        for weight in weights:
            weight.requires_grad_(True)
            part = slice(start, start + weight.numel())
            # The same weight in one piece of memory with all others: the optimiser and the bound
            # of the gradient take one pass instead of one for each of hundreds.
            view = _like(leaf[0, part], weight)
            view.copy_(weight.data)
            weight.data = view
            weight.grad = _like(leaf.grad[0, part], weight)
            start = part.stop
        self.leaves = [leaf.requires_grad_(True)]

    def save(self, concept: int, values: Sequence[torch.Tensor], out_dir: Path) -> None:
        """Write both models as diffusers and transformers load them.

        Args:
            concept: 0.
            values: the leaf, or its average.
            out_dir: gets `unet/` and `text_encoder/`.
        """
        with torch.no_grad():
            self.leaves[0].copy_(values[0])
        # As large as the model, and done with: its memory serves the copies below.
        self.leaves[0].grad = None
        for name in ("unet", "text_encoder"):
            module = getattr(self.pipeline, name)
            for weight in module.parameters():
                # Out of the one piece again: a file holds each weight by itself.
                weight.grad = None
                weight.data = weight.data.clone(memory_format=torch.contiguous_format)
            module.save_pretrained(out_dir / name, safe_serialization=True)
            # save_pretrained notes where the base was read from; a place is no content.
            path = out_dir / name / "config.json"
            settings = json.loads(path.read_text())
            settings.pop("_name_or_path", None)
            path.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")

    def clip(self, norm: float) -> None:
        """Bound the norm of the gradient, without a copy of it: it is as large as the model."""
        gradient = self.leaves[0].grad
        assert gradient is not None
        factor = norm / (torch.linalg.vector_norm(gradient) + 1e-6)
        # A pass over as much memory as the model has, saved where it would multiply by one. On a
        # GPU asking would cost more than the pass: it would wait for the gradient.
        if gradient.is_cuda or factor < 1:
            gradient.mul_(factor.clamp(max=1))

    def close(self) -> None:
        """Nothing to give back: the copy goes with its owner."""


def _like(flat: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A view of flat memory with a weight's shape and order of memory."""
    if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        out, into, height, width = weight.shape
        return flat.view(out, height, width, into).permute(0, 3, 1, 2)
    return flat.view(weight.shape)


def own_copy(base: BaseModel) -> LoadedBase:
    """The base read afresh: training in full would spoil the shared one."""
    accelerator = new_accelerator(base.precision)
    pipeline = load_pipeline(base.folder, base.vae_folder).to(accelerator.device)
    pipeline.vae.requires_grad_(False)
    return LoadedBase(pipeline, accelerator)
