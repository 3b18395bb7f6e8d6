"""The published head: squeeze-and-excitation on the pooled features, and a classifier after it.

Squeeze-and-excitation weighs channels by each other (Hu et al. 2018, section 3); here it is used on
features that are pooled already. After this module is imported,
`timm.create_model("with_se_head", backbone="resnet152", num_classes=n)` builds what was trained, so
that an exported classifier loads.
"""

from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

#: How many times fewer channels the squeeze has.
_REDUCTION = 16
#: Units between the features and the classifier, where the published settings have them.
_HIDDEN = {"inception_resnet_v1": 256}


class SeHead(nn.Module):
    """(N, C) features to (N, K) logits: weighed, normalised, dropped out, classified."""

    def __init__(self, features: int, classes: int, dropout: float, hidden: int | None) -> None:
        super().__init__()
        squeezed = max(features // _REDUCTION, 1)
        self.squeeze = nn.Linear(features, squeezed)
        self.excite = nn.Linear(squeezed, features)
        self.bn = nn.BatchNorm1d(features)
        self.hidden = (
            nn.Sequential(nn.Linear(features, hidden), nn.ReLU()) if hidden else nn.Identity()
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden or features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C) to (N, K)."""
        x = x * self.excite(self.squeeze(x).relu()).sigmoid()
        return self.fc(self.dropout(self.hidden(self.bn(x))))


class WithSeHead(nn.Module):
    """A timm backbone without its classifier, and an `SeHead` behind it."""

    def __init__(
        self,
        backbone: str = "resnet152",
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.body = timm.create_model(
            backbone, pretrained=False, num_classes=0, in_chans=in_chans, **options
        )
        self.num_features = self.head_hidden_size = self.body.head_hidden_size
        hidden = _HIDDEN.get(backbone.split(".")[0])
        self.head = SeHead(self.num_features, num_classes, drop_rate, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        return self.head(self.body(x))


default_cfgs = generate_default_cfgs({"with_se_head": {"classifier": "head.fc"}})


@register_model
def with_se_head(pretrained: bool = False, **options: Any) -> WithSeHead:
    """Any timm backbone, named by `backbone`, with the published head."""
    return build_model_with_cfg(WithSeHead, "with_se_head", pretrained, **options)
