"""Train the embedded recogniser's first weights: from a phantom's picture to its shape.

What ImageNet is to a study with a model hub, phantoms are to one without: a network that has
learned to see faces' shapes, on people of whom none has a condition of any study.
"""

from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from synth_pipeline.phantom.base_parts import render_training_set
from synth_pipeline.phantom.dataset import random_shape
from synth_pipeline.phantom.resumable import Training
from synth_pipeline.progress import Progress, silent

_BATCH = 64
#: The last pictures are not learned from; how well they are read is said at the end.
_HELD_OUT = 500


def train_backbone(
    out_file: Path,
    *,
    name: str,
    work_dir: Path,
    mesh_path: Path,
    images: int = 6000,
    steps: int = 3000,
    seed: int = 0,
    progress: Progress = silent,
) -> float:
    """Train and write the half-precision weights of a timm model with one output for each field.

    Args:
        out_file: a safetensors file, which `timm.create_model` loads.
        name: of the timm model.
        work_dir: renders (those of `train_base` serve) and the checkpoint; resumable.
        mesh_path: `face_landmarker.task`, for the mesh.
        images: how many phantoms.
        steps: of 64 pictures each.
        seed: of the phantoms, the weights and the batches.
        progress: told after each step.

    Returns:
        The share of the held-out phantoms' variance of shape that the network explains.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    pictures, _ = render_training_set(
        work_dir / "phantoms", images=images, seed=seed, landmark_model=mesh_path, progress=progress
    )
    # The picture was drawn from the same numbers, of which the shape's come first.
    shapes = np.stack([random_shape(np.random.default_rng([seed, 3, i]))[0] for i in range(images)])
    shapes = torch.from_numpy(shapes).float()
    mean, deviation = shapes.mean(0), shapes.std(0)
    wanted = (shapes - mean) / deviation
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False, num_classes=shapes.shape[1])
    model.to(memory_format=torch.channels_last)
    settings = model.pretrained_cfg
    norm = [torch.tensor(settings[key])[:, None, None] for key in ("mean", "std")]

    def to_input(chosen: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(pictures[chosen]).permute(0, 3, 1, 2).float().div_(255)
        return ((x - norm[0]) / norm[1]).contiguous(memory_format=torch.channels_last)

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng([seed, 7, step])
        chosen = rng.integers(images - _HELD_OUT, size=_BATCH)
        x = _somewhat_different(to_input(chosen), rng)
        return F.smooth_l1_loss(model(x), wanted[chosen])

    training = Training(work_dir / f"{name}.pt", {"model": model}, 2e-3, steps)
    model.train()
    training.run(loss_of_step, progress, name)
    with training.averaged(), torch.no_grad():
        last = np.arange(images - _HELD_OUT, images)
        left = (model(to_input(last)) - wanted[last]).square().mean()
        explained = 1 - float(left / wanted[last].var(0).mean())
        weights = {
            key: value.half() if value.is_floating_point() else value
            for key, value in model.state_dict().items()
        }
    beside = out_file.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in weights.items()}, beside)
    beside.replace(out_file)
    return explained


def _somewhat_different(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Shifted, scaled, turned and lit a little otherwise: nothing that changes a shape."""
    count = len(x)
    angle = torch.from_numpy(rng.normal(0, 0.07, count)).float()
    scale = torch.from_numpy(rng.uniform(0.9, 1.15, count)).float()
    shift = torch.from_numpy(rng.uniform(-0.08, 0.08, (count, 2))).float()
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = (torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (count, 1, 1, 1))).float()
    return (x * gain).contiguous(memory_format=torch.channels_last)
