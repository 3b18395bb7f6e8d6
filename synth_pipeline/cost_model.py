"""What stages cost where nothing was measured: arithmetic over an assumed rate, and file sizes.

Everything here is stated rather than exact. SD 1.5 at 512 px: 0.8 TFLOP a forward pass of the UNet,
2.4 a training step; another base counts by its weights and its latents' area. The recognisers'
multiplications were counted by torch's `FlopCounterMode` at 224 px.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from synth_pipeline import base_files, weight_files

#: Forward pass of SD 1.5's UNet on 64×64 latents, and what its weights are.
_SD_FORWARD_FLOP, _SD_WEIGHTS, _SD_LATENT = 0.8e12, 860e6, 64
#: Decoding a picture of 512 px costs about three such passes.
DECODE_PASSES = 3
#: Of a training step: forward and backward.
STEP_PASSES = 3
#: What is reached, not what is printed on the box; per core fp32. The H200's is what drawing and
#: learning several concepts at once reached (benchmarks.real_sizes); the H100 has the same
#: processor, the others are a guess.
_GPU_FLOP_PER_S = {
    "H200": 220e12,
    "H100": 220e12,
    "A100": 60e12,
    "L40": 60e12,
    "4090": 60e12,
    "3090": 25e12,
    "L4": 25e12,
    "V100": 30e12,
    "T4": 12e12,
}
_OTHER_GPU_FLOP_PER_S = 20e12
#: A step of SD 1.5 that is not replayed takes as long as a processor hands over its kernels,
#: however fast the GPU is (measured in full, beside an H200).
KERNEL_BY_KERNEL_S = 0.17
#: 20 steps of the phantom base take a second on two cores.
_CORE_FLOP_PER_S = 15e9
#: Thousand million multiply-adds at 224 px, and millions of weights with a head of 103.
_NETWORKS = {
    "resnet152": (11.5, 58.4),
    "densenet169": (3.4, 12.7),
    "facenet": (3.1, 23.5),
    "facenet-casia": (3.1, 23.5),
    "inception_resnet_v1": (3.1, 23.5),
    "vgg16": (15.5, 134.7),
    "vgg-face": (15.5, 134.7),
    "swin-t": (4.5, 27.6),
    "swin_tiny_patch4_window7_224": (4.5, 27.6),
    "clip-vit-b32": (4.4, 87.5),
    "vit_base_patch32_clip_224": (4.4, 87.5),
    "vit_base_patch32_clip_quickgelu_224": (4.4, 87.5),
    "resnet18": (1.8, 11.2),
    "resnet50": (4.1, 23.7),
    "mobilenetv2_100": (0.3, 2.4),
    "mobilenetv3_small_075": (0.04, 1.1),
    "test_resnet": (0.2, 0.4),
}


@dataclass(frozen=True)
class Device:
    """What the work would run on.

    Attributes:
        name: in words.
        flop_per_s: the assumed rate.
        gpu: whether it is one.
    """

    name: str
    flop_per_s: float
    gpu: bool


def device(gpus: Path = Path("/proc/driver/nvidia/gpus")) -> Device:
    """The first NVIDIA GPU that the kernel knows, or the processor; asks no library.

    Args:
        gpus: where the driver lists them.
    """
    for about in sorted(gpus.glob("*/information")):
        for line in about.read_text(errors="replace").splitlines():
            if line.startswith("Model:"):
                name = line.removeprefix("Model:").strip()
                known = (rate for part, rate in _GPU_FLOP_PER_S.items() if part in name)
                return Device(f"one {name}", next(known, _OTHER_GPU_FLOP_PER_S), True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Device(f"{cores} cores, no GPU", (cores or 1) * _CORE_FLOP_PER_S, False)


@dataclass(frozen=True)
class BaseCost:
    """A base model's sizes: FLOP of its UNet for one picture, weights, their bytes, side in px."""

    forward_flop: float
    weights: int
    weights_bytes: int
    side_px: int


def base_cost(folder: Path) -> BaseCost:
    """Read a base's sizes from the headers of its files; loads no weight.

    Args:
        folder: in diffusers' format.
    """
    found = weight_files.find(folder / "unet", base_files.NETWORKS["unet"][1])
    assert found is not None  # `resolve_base` has looked
    count = sum(math.prod(shape) for shape in found.shapes.values())
    size_bytes = sum(path.stat().st_size for path in found.files)
    latent = json.loads((folder / "unet" / "config.json").read_bytes()).get("sample_size", 64)
    vae = folder / "vae" / "config.json"
    blocks = json.loads(vae.read_bytes()).get("block_out_channels", []) if vae.is_file() else []
    side_px = latent * 2 ** (len(blocks) - 1 if blocks else 3)
    share = count / _SD_WEIGHTS * (latent / _SD_LATENT) ** 2
    return BaseCost(_SD_FORWARD_FLOP * share, count, size_bytes, side_px)


def network(name: str, size_px: int) -> tuple[float, float]:
    """FLOP of a forward pass of one picture, and bytes of the weights.

    One that the table does not know counts as a ResNet-50.

    Args:
        name: of a backbone.
        size_px: of the pictures.
    """
    multiplied, weights = _NETWORKS.get(name.split(".")[0], _NETWORKS["resnet50"])
    return 2e9 * multiplied * (size_px / 224) ** 2, 4e6 * weights
