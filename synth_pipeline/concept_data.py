"""What a fine-tuning reads, computed once: latents of photos or morphs, numbers of the prompts."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageOps

from synth_pipeline import morphs
from synth_pipeline.errors import ClassFailedError
from synth_pipeline.loaded_base import LoadedBase
from synth_pipeline.stored_pictures import DamagedPictureError, read_picture

logger = logging.getLogger("synth_pipeline")


@dataclass(frozen=True)
class Latents:
    """What the encoder makes of N pictures, scaled as the UNet wants them.

    Attributes:
        mean: (N, C, H/8, W/8) float32.
        deviation: of the same shape; a step draws from both.
        morphs: whether the pictures are morphs of photos.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    morphs: bool = False


def read_latents(
    loaded: LoadedBase,
    images: Sequence[Path],
    resolution_px: int,
    class_id: str,
    points_px: np.ndarray | None = None,
) -> Latents:
    """Read and encode a class's photos.

    Args:
        loaded: whose autoencoder encodes.
        images: RGB files of any size; padded to a square with grey, then resized. There is no flip
            and no crop, because asymmetry is phenotype.
        resolution_px: width and height to train at.
        class_id: named when a photo cannot be read.
        points_px: (N, 478, 3) the photos' landmarks, not-a-number where there is no face: morphs
            of the photos with a face are encoded instead of the photos. Fewer than two of these
            cannot be morphed; the photos themselves are encoded then.

    Raises:
        ClassFailedError: a file is damaged.
        StageError: a file cannot be read.
    """
    pixels, sizes_px, enlarged = [], [], 0
    for path in images:
        image = _read(path, class_id)
        enlarged += max(image.size) < resolution_px
        pixels.append(_square(image, resolution_px))
        sizes_px.append(image.size)
    if enlarged:
        logger.info(
            "class %s: %d of %d photos are smaller than %d px and are enlarged",
            class_id,
            enlarged,
            len(pixels),
            resolution_px,
        )
    if points_px is None:
        return _encode(loaded.pipeline, pixels)
    placed_px = _placed(points_px, sizes_px, resolution_px)
    faces = np.flatnonzero(np.isfinite(placed_px).all(axis=(1, 2)))
    if len(faces) < 2:
        logger.warning(
            "class %s: fewer than two photos show a face, so there is nothing to morph; it learns "
            "from the photos themselves",
            class_id,
        )
        return _encode(loaded.pipeline, pixels)
    shown = np.stack([pixels[place] for place in faces])
    return replace(_encode(loaded.pipeline, morphs.morphs(shown, placed_px[faces])), morphs=True)


#: The last that were encoded; by value, so that no copy of a base model is kept alive.
_prior: dict[tuple[str, Path, int], Latents] = {}


def prior_latents(loaded: LoadedBase, identity: str, folder: Path, resolution_px: int) -> Latents:
    """Those of the class images, which all concepts share: encoded once in a process.

    Args:
        loaded: whose autoencoder encodes.
        identity: of the base model.
        folder: a `class-images` artifact.
        resolution_px: width and height to train at.
    """
    which = (identity, folder, resolution_px)
    if which not in _prior:
        images = sorted((folder / "images").glob("*.png"))
        _prior.clear()
        _prior[which] = read_latents(loaded, images, resolution_px, "class images")
    return _prior[which]


def token_ids(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> torch.Tensor:
    """(N, T) int64 token numbers, padded to the encoder's length, on the pipeline's device."""
    return pipeline.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids.to(pipeline.device)


def _read(path: Path, class_id: str) -> Image.Image:
    try:
        return read_picture(path)
    except DamagedPictureError:
        raise ClassFailedError(
            class_id, "a training photo of it is damaged; import the cases again."
        ) from None


def _square(image: Image.Image, size_px: int) -> np.ndarray:
    """(3, size, size) float32 in -1..1."""
    padded = ImageOps.pad(
        image, (size_px, size_px), method=Image.Resampling.LANCZOS, color=(128, 128, 128)
    )
    return (np.asarray(padded, np.float32) / 127.5 - 1).transpose(2, 0, 1)


def _placed(points_px: np.ndarray, sizes_px: Sequence[tuple[int, int]], size_px: int) -> np.ndarray:
    """Where landmarks of photos lie in what `_square` makes of them, (N, 478, 2)."""
    sizes_N12 = np.array(sizes_px, np.float32)[:, None]
    scale_N11 = size_px / sizes_N12.max(axis=2, keepdims=True)
    # The longer side fills the square; the shorter lies in its middle.
    return points_px[:, :, :2] * scale_N11 + (size_px - sizes_N12 * scale_N11) / 2


@torch.no_grad()
def _encode(pipeline: StableDiffusionPipeline, pixels_CHW: Iterable[np.ndarray]) -> Latents:
    means, deviations = [], []
    for image_CHW in pixels_CHW:  # one at a time: at 512 px the encoder is what fills the memory
        image_1CHW = torch.from_numpy(image_CHW)[None].to(pipeline.device)
        posterior = pipeline.vae.encode(image_1CHW).latent_dist
        means.append(posterior.mean.float())
        deviations.append(posterior.std.float())
    scale = pipeline.vae.config.scaling_factor
    return Latents(torch.cat(means) * scale, torch.cat(deviations) * scale)
