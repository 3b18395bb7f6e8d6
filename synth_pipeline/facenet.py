"""FaceNet's network as timm knows models: Inception-ResNet-v1 with an embedding of 512 numbers.

After this module is imported, `timm.create_model("inception_resnet_v1", num_classes=n)` works. The
architecture is Inception-ResNet-v1 of Szegedy et al. 2016 (arXiv:1602.07261, figures 10 to 15) as
FaceNet's open implementations use it; layers carry the names that facenet-pytorch's published
checkpoints do, so these load as they are.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

_PUBLISHED = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"


class _ConvNormRelu(nn.Module):
    """A convolution without bias, batch norm, and a rectifier."""

    def __init__(self, into: int, out: int, size: Any, stride: int = 1, padding: Any = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Branches(nn.Module):
    """Branches side by side on the same input, their channels one after another.

    Their names count up: `branch0`, `branch1` ...
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)
        self._count = len(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = (getattr(self, f"branch{number}") for number in range(self._count))
        return torch.cat([branch(x) for branch in branches], 1)


class _Residual(_Branches):
    """Branches whose outcome, projected and scaled, is added to the input."""

    def __init__(
        self, *branches: nn.Module, joined: int, width: int, scale: float, rectified: bool = True
    ) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(joined, width, 1)
        self._scale, self._rectified = scale, rectified

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2d(super().forward(x)) * self._scale + x
        return F.relu(y) if self._rectified else y


def _block35() -> _Residual:
    return _Residual(
        _ConvNormRelu(256, 32, 1),
        nn.Sequential(_ConvNormRelu(256, 32, 1), _ConvNormRelu(32, 32, 3, padding=1)),
        nn.Sequential(
            _ConvNormRelu(256, 32, 1),
            _ConvNormRelu(32, 32, 3, padding=1),
            _ConvNormRelu(32, 32, 3, padding=1),
        ),
        joined=96,
        width=256,
        scale=0.17,
    )


def _block17() -> _Residual:
    return _Residual(
        _ConvNormRelu(896, 128, 1),
        nn.Sequential(
            _ConvNormRelu(896, 128, 1),
            _ConvNormRelu(128, 128, (1, 7), padding=(0, 3)),
            _ConvNormRelu(128, 128, (7, 1), padding=(3, 0)),
        ),
        joined=256,
        width=896,
        scale=0.1,
    )


def _block8(*, scale: float = 0.2, rectified: bool = True) -> _Residual:
    return _Residual(
        _ConvNormRelu(1792, 192, 1),
        nn.Sequential(
            _ConvNormRelu(1792, 192, 1),
            _ConvNormRelu(192, 192, (1, 3), padding=(0, 1)),
            _ConvNormRelu(192, 192, (3, 1), padding=(1, 0)),
        ),
        joined=384,
        width=1792,
        scale=scale,
        rectified=rectified,
    )


class InceptionResnetV1(nn.Module):
    """(N, 3, H, W), (x - 127.5) / 128, to logits; with no classes, to the embedding (N, 512).

    FaceNet's own embedding is this one divided by its length.
    """

    def __init__(
        self,
        num_classes: int = 8631,
        in_chans: int = 3,
        drop_rate: float = 0.6,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.num_features = self.head_hidden_size = 512
        self.conv2d_1a = _ConvNormRelu(in_chans, 32, 3, stride=2)
        self.conv2d_2a = _ConvNormRelu(32, 32, 3)
        self.conv2d_2b = _ConvNormRelu(32, 64, 3, padding=1)
        self.conv2d_3b = _ConvNormRelu(64, 80, 1)
        self.conv2d_4a = _ConvNormRelu(80, 192, 3)
        self.conv2d_4b = _ConvNormRelu(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = _Branches(
            _ConvNormRelu(256, 384, 3, stride=2),
            nn.Sequential(
                _ConvNormRelu(256, 192, 1),
                _ConvNormRelu(192, 192, 3, padding=1),
                _ConvNormRelu(192, 256, 3, stride=2),
            ),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = _Branches(
            nn.Sequential(_ConvNormRelu(896, 256, 1), _ConvNormRelu(256, 384, 3, stride=2)),
            nn.Sequential(_ConvNormRelu(896, 256, 1), _ConvNormRelu(256, 256, 3, stride=2)),
            nn.Sequential(
                _ConvNormRelu(896, 256, 1),
                _ConvNormRelu(256, 256, 3, padding=1),
                _ConvNormRelu(256, 256, 3, stride=2),
            ),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_3 = nn.Sequential(*(_block8() for _ in range(5)))
        self.block8 = _block8(scale=1.0, rectified=False)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=0.001)
        self.logits = nn.Linear(512, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1792, H', W') before pooling."""
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))
        return self.block8(self.repeat_3(self.mixed_7a(x)))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pooled, dropped out, and projected to the embedding; then to the logits."""
        x = F.dropout(x.mean((2, 3)), self.drop_rate, self.training)
        x = self.last_bn(self.last_linear(x))
        return x if pre_logits else self.logits(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W), at least 75 pixels a side, to (N, num_classes) or (N, 512)."""
        return self.forward_head(self.forward_features(x))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Depth of each layer, for layer-wise learning rates."""
        deep = r"^repeat_(\d)" if coarse else r"^repeat_(\d)\.(\d+)"
        between = [(r"^mixed_6a", (1, 99)), (r"^mixed_7a", (2, 99)), (r"^block8", (3, 99))]
        return {"stem": r"^conv2d", "blocks": [(deep, None), *between]}

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.logits

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Replace the last layer by a fresh one, or by nothing."""
        self.num_classes = num_classes
        self.logits = nn.Linear(512, num_classes) if num_classes else nn.Identity()


def _settings(file: str, classes: int) -> dict[str, Any]:
    return {
        "url": f"{_PUBLISHED}{file}",
        "num_classes": classes,
        "input_size": (3, 160, 160),
        "min_input_size": (3, 75, 75),
        "mean": (127.5 / 255,) * 3,
        "std": (128 / 255,) * 3,
        "first_conv": "conv2d_1a.conv",
        "classifier": "logits",
        "license": "mit",
    }


default_cfgs = generate_default_cfgs(
    {
        "inception_resnet_v1.vggface2": _settings("20180402-114759-vggface2.pt", 8631),
        "inception_resnet_v1.casia": _settings("20180408-102900-casia-webface.pt", 10575),
    }
)


@register_model
def inception_resnet_v1(pretrained: bool = False, **options: Any) -> InceptionResnetV1:
    """Inception-ResNet-v1; its weights are facenet-pytorch's, of VGGFace2 or CASIA-WebFace."""
    return build_model_with_cfg(InceptionResnetV1, "inception_resnet_v1", pretrained, **options)
