"""Generate one class's synthetic images, each from a seed of its own."""

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import PngImagePlugin
from transformers import CLIPTextModel

from synth_pipeline.base_model import BaseModel
from synth_pipeline.config import SamplingConfig
from synth_pipeline.loaded_base import load_base
from synth_pipeline.progress import Progress, silent
from synth_pipeline.seeds import derived_seed
from synth_pipeline.store import file_sha256


def image_seed(seed: int, class_id: str, index: int) -> int:
    """The seed of an image: the study's seed, the class and the index decide it alone."""
    return derived_seed(seed, "sampling", class_id, index)


def run(
    config: SamplingConfig,
    *,
    class_id: str,
    class_name: str,
    prompt: str,
    concept_dir: Path,
    base: BaseModel,
    seed: int,
    out_dir: Path,
    progress: Progress = silent,
) -> dict[str, float]:
    """Write `images/<index>.png` and `samples.parquet`.

    An image's first noise comes from its own generator on the processor, so 100 images are the 60
    and the 40 that other runs made, and a GPU starts from the same noise. The arithmetic of a
    larger batch may round differently in the last bit.

    Args:
        config: number of images, steps, guidance scale, scheduler, batch size.
        class_id: the class.
        class_name: recorded in the images.
        prompt: the instance prompt with the class's name.
        concept_dir: a `dreambooth` artifact.
        base: the base model it was made from.
        seed: of the study.
        out_dir: an empty folder.
        progress: told after each batch.

    Returns:
        Seconds, and images per second.
    """
    begun_s = time.monotonic()
    loaded = load_base(base)
    pipeline, restore = _with_concept(loaded.pipeline, concept_dir)
    rows = []
    (out_dir / "images").mkdir()
    try:
        sampler = _with_scheduler(pipeline, config.scheduler)
        size = (pipeline.unet.config.in_channels, *(pipeline.unet.config.sample_size,) * 2)
        for start in range(0, config.images_per_class, config.batch_size):
            indices = range(start, min(start + config.batch_size, config.images_per_class))
            seeds = [image_seed(seed, class_id, index) for index in indices]
            noise = torch.stack(
                [torch.randn(size, generator=torch.Generator().manual_seed(s)) for s in seeds]
            )
            with torch.no_grad(), loaded.accelerator.autocast():
                images = sampler(
                    [prompt] * len(seeds),
                    latents=noise.to(loaded.accelerator.device),
                    num_inference_steps=config.steps,
                    guidance_scale=config.guidance_scale,
                ).images
            for index, image_s, image in zip(indices, seeds, images, strict=True):
                file = f"images/{index:05d}.png"
                about = {
                    "synthetic": "true",
                    "generator": "synth-pipeline",
                    "base_model": base.identity,
                    "class_id": class_id,
                    "prompt": prompt,
                    "seed": str(image_s),
                    "index": str(index),
                }
                image.save(out_dir / file, pnginfo=_metadata(about))
                rows.append(
                    {
                        "index": index,
                        "seed": image_s,
                        "prompt": prompt,
                        "file": file,
                        "sha256": file_sha256(out_dir / file),
                    }
                )
            progress(indices.stop, config.images_per_class, "images")
    finally:
        restore()
    pq.write_table(pa.Table.from_pylist(rows), out_dir / "samples.parquet")
    seconds = time.monotonic() - begun_s
    return {"seconds": seconds, "images_per_s": len(rows) / seconds}


def _with_concept(pipeline: StableDiffusionPipeline, concept_dir: Path):  # type: ignore[no-untyped-def]
    """The base with a concept in it, and how to take it out again."""
    if (concept_dir / "unet").is_dir():
        device = pipeline.device
        own = {
            "unet": UNet2DConditionModel.from_pretrained(
                concept_dir / "unet", use_safetensors=True, local_files_only=True
            ),
            "text_encoder": CLIPTextModel.from_pretrained(
                concept_dir / "text_encoder", use_safetensors=True, local_files_only=True
            ),
        }
        components = {**pipeline.components, **own}
        tuned = StableDiffusionPipeline(**components, requires_safety_checker=False)
        tuned.set_progress_bar_config(disable=True)
        return tuned.to(device), lambda: None
    pipeline.load_lora_weights(
        concept_dir, weight_name="pytorch_lora_weights.safetensors", local_files_only=True
    )
    return pipeline, pipeline.unload_lora_weights


def _with_scheduler(pipeline: StableDiffusionPipeline, name: str) -> StableDiffusionPipeline:
    """The same networks with another sampler; the base's own noise schedule is kept."""
    if name == "base":
        scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    elif name == "ddim":
        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    else:
        # DPM-Solver++ 2M (Lu et al. 2022): as good in 25 steps as DDIM in 50.
        scheduler = DPMSolverMultistepScheduler.from_config(
            pipeline.scheduler.config, algorithm_type="dpmsolver++"
        )
    sampler = StableDiffusionPipeline(
        **{**pipeline.components, "scheduler": scheduler}, requires_safety_checker=False
    )
    sampler.set_progress_bar_config(disable=True)
    return sampler


def _metadata(about: dict[str, str]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for name, value in about.items():
        info.add_itxt(name, value)
    return info
