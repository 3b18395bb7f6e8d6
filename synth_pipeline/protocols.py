"""How a fold is trained: the published settings, and ours.

The numbers of `tuned` are customary ones, and not shown to be better (docs/decisions/0015).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay

#: Where the cosine ends, as a share of the first learning rate (1e-4 to 1e-6).
_LAST_RATE = 0.01


@dataclass(frozen=True)
class Protocol:
    """What is done besides AdamW with a cosine.

    Attributes:
        imagenet_norm: pictures are normalised as ImageNet's, whatever the backbone was made for.
        augment: pictures are changed a little each time (`augmentation`).
        balanced: each class is shown equally often.
        label_smoothing: share of the probability that is spread over all classes.
        warm_up: share of the steps in which the rate rises to its highest.
        stem_rate: learning rate of the first layer as a share of the head's, in equal factors from
            layer to layer; of pretrained networks only.
        average_share: weights are averaged over about this share of the steps; 0 keeps the last.
        patience: stop when the validation loss has not fallen for this share of the epochs.
        by_loss: keep the epoch of the lowest validation loss instead of the highest accuracy.
    """

    imagenet_norm: bool = False
    augment: bool = False
    balanced: bool = False
    label_smoothing: float = 0.0
    warm_up: float = 0.0
    stem_rate: float = 1.0
    average_share: float = 0.0
    patience: float | None = None
    by_loss: bool = False


PROTOCOLS = {
    # RDFace's published settings: nothing but the optimiser.
    "published": Protocol(imagenet_norm=True),
    "tuned": Protocol(
        augment=True,
        balanced=True,
        label_smoothing=0.1,
        warm_up=0.05,
        stem_rate=0.3,
        average_share=0.1,
        patience=0.3,
        by_loss=True,
    ),
}


def rate_of_step(protocol: Protocol, step: int, steps: int) -> float:
    """The learning rate of a step as a share of the highest: a line up, and a cosine down."""
    rising = round(protocol.warm_up * steps)
    if step < rising:
        return (step + 1) / rising
    turn = math.pi * (step - rising) / (steps - rising)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(turn))


def parameter_groups(
    model: torch.nn.Module, weight_decay: float, stem_rate: float
) -> list[dict[str, Any]]:
    """Parameters with their share of the learning rate, under `lr_scale`.

    Args:
        model: a timm model, with or without our head behind it.
        weight_decay: where rates differ by layer, biases and norms are left out of it, as is
            usual (Bao et al. 2022).
        stem_rate: see `Protocol`.
    """
    if stem_rate == 1.0:
        return [{"params": list(model.parameters()), "weight_decay": weight_decay, "lr_scale": 1.0}]
    body = getattr(model, "body", model)
    depth_of = group_parameters(body, body.group_matcher(coarse=False), reverse=True)
    deepest = max(depth_of.values())
    # timm multiplies from layer to layer, and networks have from 10 to 50 of them.
    groups = param_groups_layer_decay(
        body, weight_decay, layer_decay=stem_rate ** (1 / max(deepest, 1))
    )
    if body is not model:
        head = model.get_submodule("head")
        groups.append(
            {"params": list(head.parameters()), "weight_decay": weight_decay, "lr_scale": 1.0}
        )
    return groups
