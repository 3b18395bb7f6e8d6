"""What a pretrained network sees in a picture: features that landmarks do not have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from synth_pipeline import backbones
from synth_pipeline.fold_training import predict
from synth_pipeline.picture_store import decoded

_BATCH = 32


@dataclass(frozen=True)
class Appearance:
    """Features of a timm backbone without its head.

    Attributes:
        backbone: timm name.
        pretrained: which weights; with none the features mean nothing.
        size_px: side of the pictures that it is shown.
    """

    backbone: str
    pretrained: backbones.Pretrained
    size_px: int

    def __call__(self, images: Sequence[Path]) -> np.ndarray:
        """Look at pictures.

        Args:
            images: N files.

        Returns:
            (N, D) float64, each of length 1.

        Raises:
            InputError: a file cannot be read, or the weights cannot be had.
        """
        model, norm = backbones.create(
            self.backbone,
            classes=0,
            pretrained=self.pretrained,
            dropout=0.0,
            size_px=self.size_px,
        )
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        pictures = decoded(images, self.size_px).all()
        with torch.no_grad():
            features = predict(model, pictures, norm, _BATCH).double().numpy()
        return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
