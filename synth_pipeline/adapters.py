"""LoRA adapters of several concepts on one frozen network (Hu et al. 2022).

The network runs once for a batch that holds the samples of all concepts; only the adapters, which
are small, are computed for each concept apart. So what a step costs whatever its batch is paid
once for all concepts. The `delta` of a layer is the product of its two matrices, unscaled.

Shapes: K concepts, B samples of each, R the rank, P the numbers of one concept's adapters. A batch
is (K·B, …), concept after concept.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# The layout of a concept's part of the memory is ours; the note is meant for distributed training.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout")

#: The attention's projections, as in the LoRA paper (Hu et al. 2022, section 4.2).
_UNET_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def attention_layers(network: nn.Module) -> list[str]:
    """The names of a UNet's or a CLIP text encoder's attention projections."""
    ends = tuple(f".{name}" for name in (*_UNET_ATTENTION, *_TEXT_ATTENTION))
    return [name for name, _ in network.named_modules() if name.endswith(ends)]


def block_layers(unet: nn.Module) -> list[str]:
    """The names of all linear and convolutional layers of a UNet's blocks."""
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and "block" in name
    ]


class Adapters:
    """Adapters on layers of a frozen network, to be trained.

    Args:
        network: gets hooks on the layers, and no other change.
        layers: names of its linear and convolutional layers.
        rank: of each adapter.
        seeds: one for each concept; it decides where the concept's adapters begin.

    Attributes:
        weights: all adapters of all concepts in one piece, (K, P) float32; its gradient is filled
            by the backward pass, and has to be set to zero in place.
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[str], rank: int, seeds: Sequence[int]
    ) -> None:
        modules = {name: network.get_submodule(name) for name in layers}
        self._shapes = {
            f"{name}.lora_{letter}.weight": shape
            for name, module in modules.items()
            for letter, shape in zip("AB", _shapes(module, rank), strict=True)
        }
        size = sum(torch.Size(shape).numel() for shape in self._shapes.values())
        self.weights = torch.zeros(
            len(seeds), size, device=next(network.parameters()).device, requires_grad=True
        )
        self.weights.grad = torch.zeros_like(self.weights)
        parts = self._views(self.weights.detach())
        gradients = self._views(self.weights.grad)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for name, part in parts.items():
            if ".lora_A." in name:
                # As peft begins: the product is zero, so the network starts as it was.
                for concept, generator in enumerate(generators):
                    part[concept] = torch.randn(part.shape[1:], generator=generator) / rank
            # A leaf of its own for the backward pass, on memory that the optimiser sees as one.
            part.requires_grad_(True).grad = gradients[name]
        self._hooks = [
            module.register_forward_hook(
                _added(module, parts[f"{name}.lora_A.weight"], parts[f"{name}.lora_B.weight"])
            )
            for name, module in modules.items()
        ]

    def of_concept(self, concept: int, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """One concept's adapters under peft's names.

        Args:
            concept: its number.
            weights: (K, P): the weights, or an average of them.
        """
        return {
            name: part[concept].clone().contiguous()
            for name, part in self._views(weights.detach()).items()
        }

    def close(self) -> None:
        """Take the adapters off; the network is as it was."""
        for hook in self._hooks:
            hook.remove()

    def _views(self, whole: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes = [torch.Size(shape).numel() for shape in self._shapes.values()]
        return {
            name: part.view(len(whole), *shape)
            for (name, shape), part in zip(
                self._shapes.items(), whole.split(sizes, dim=1), strict=True
            )
        }


def apply(network: nn.Module, adapters: Mapping[str, torch.Tensor]) -> Callable[[], None]:
    """Put one concept's adapters on a network that is not trained.

    Float32 weights take them in, so that the network is as fast as without. Half precision would
    round a small change away, so there they are computed beside, as they were learned.

    Args:
        network: changed in place.
        adapters: by peft's names, as `Adapters.of_concept` gives them.

    Returns:
        What takes them off again, to the last bit.
    """
    kept: dict[str, torch.Tensor] = {}
    hooks = []
    for name in sorted({name.rsplit(".lora_", 1)[0] for name in adapters}):
        layer = network.get_submodule(name)
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        down, up = (adapters[f"{name}.lora_{letter}.weight"].to(weight.device) for letter in "AB")
        if weight.dtype != torch.float32:
            hooks.append(layer.register_forward_hook(_added(layer, down[None], up[None])))
            continue
        kept[name] = weight.detach().clone()
        delta = (up.flatten(1) @ down.flatten(1)).view(weight.shape)
        weight.data.add_(delta)

    def restore() -> None:
        for hook in hooks:
            hook.remove()
        for name, weight in kept.items():
            network.get_submodule(name).weight.data.copy_(weight)

    return restore


def _shapes(layer: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(layer, nn.Linear):
        return (rank, layer.in_features), (layer.out_features, rank)
    assert isinstance(layer, nn.Conv2d)
    assert layer.groups == 1
    return (rank, layer.in_channels, *layer.kernel_size), (layer.out_channels, rank, 1, 1)


def _added(layer: nn.Module, down: torch.Tensor, up: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The forward hook of a layer: what it gives, and each concept's adapter on top."""
    concepts = len(down)

    def linear(_: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        x_KNI = inputs[0].reshape(concepts, -1, inputs[0].shape[-1])
        y_KNO = output.reshape(concepts, -1, output.shape[-1])
        low_KNR = x_KNI @ down.to(x_KNI.dtype).mT
        return torch.baddbmm(y_KNO, low_KNR, up.to(x_KNI.dtype).mT).view(output.shape)

    def convolution(_: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        assert isinstance(layer, nn.Conv2d)
        x_BKI, samples = _side_by_side(inputs[0], concepts)
        # One convolution with a group for each concept, on channels that lie side by side.
        low = F.conv2d(
            x_BKI,
            down.to(x_BKI.dtype).flatten(0, 1),
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
            concepts,
        )
        low_NRP = low.unflatten(1, (concepts, -1)).transpose(0, 1).flatten(0, 1).flatten(2)
        up_NOR = up.to(x_BKI.dtype).flatten(2).repeat_interleave(samples, dim=0)
        return torch.baddbmm(output.flatten(2), up_NOR, low_NRP).view(output.shape)

    return linear if isinstance(layer, nn.Linear) else convolution


def _side_by_side(x: torch.Tensor, concepts: int) -> tuple[torch.Tensor, int]:
    """(K·B, C, H, W) to (B, K·C, H, W), and B."""
    samples = len(x) // concepts
    if concepts == 1:
        return x, samples
    return x.unflatten(0, (concepts, samples)).transpose(0, 1).flatten(1, 2), samples
