"""Generate synthetic images, each from a seed of its own: a class's, or those of the base alone."""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, PngImagePlugin
from transformers import CLIPTextModel

from synth_pipeline import adapters
from synth_pipeline.base_model import BaseModel
from synth_pipeline.config import DreamBoothConfig, SamplingConfig
from synth_pipeline.content_credentials import Signer
from synth_pipeline.errors import StageError
from synth_pipeline.face_mesh import face_mesh
from synth_pipeline.loaded_base import LoadedBase, is_out_of_memory, load_base
from synth_pipeline.progress import Progress, silent
from synth_pipeline.replay import Replay
from synth_pipeline.schedulers import new_scheduler, stops
from synth_pipeline.seeds import derived_seed
from synth_pipeline.store import file_sha256
from synth_pipeline.trainers import load_adapters

logger = logging.getLogger("synth_pipeline")


def image_seed(seed: int, class_id: str, index: int) -> int:
    """The seed of an image: the study's seed, the class and the index decide it alone."""
    return derived_seed(seed, "sampling", class_id, index)


def varied_prompt(config: SamplingConfig, prompt: str, image_s: int) -> str:
    """The prompt of one image: of each kind of variation one, which its seed decides."""
    chance = random.Random(derived_seed(image_s, "prompt"))
    return ", ".join([prompt, *(chance.choice(each) for each in config.vary.values())])


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
    landmark_model: Path | None = None,
    signer: Signer | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Write `images/<index>.png` and `samples.parquet`.

    An image's first noise comes from its own generator on the processor, so 100 images are the 60
    and the 40 that other runs made, and a GPU starts from the same noise. The arithmetic of a
    larger batch may round differently in the last bit.

    Images without a face are kept and counted; more are drawn, with the next indices, until
    `images_per_class` have one or `images_per_class · oversample` are made.

    Args:
        config: number of images, steps, guidance scale, scheduler, batch size.
        class_id: the class.
        class_name: recorded in the images.
        prompt: the instance prompt with the class's name.
        concept_dir: a `dreambooth` artifact.
        base: the base model it was made from.
        seed: of the study.
        out_dir: an empty folder.
        landmark_model: `face_landmarker.task`, to look for faces with; none draws
            `images_per_class` without looking.
        signer: of content credentials; none leaves the images unsigned.
        progress: told after each batch.

    Returns:
        Seconds, images per second, and how many images have a face.
    """
    begun_s = time.monotonic()
    loaded = load_base(base)
    rows: list[dict] = []
    (out_dir / "images").mkdir()
    with (
        _with_concept(loaded, concept_dir) as pipeline,
        face_mesh(landmark_model) if landmark_model else nullcontext() as mesh,
        ThreadPoolExecutor(1) as writer,
    ):

        def keep(drawn: Sequence[_Drawn], images: Sequence[Image.Image]) -> list[dict]:
            about = {"class_id": class_id, "class_name": class_name, "base_model": base.identity}
            kept = []
            for what, image in zip(drawn, images, strict=True):
                row = _save(what, image, about, out_dir, signer)
                row["face"] = (
                    mesh.find(np.asarray(image), search=False) is not None if mesh else None
                )
                kept.append(row)
            return kept

        sampler = _Sampler(config, loaded, pipeline)
        wanted, most = config.images_per_class, config.images_per_class
        if mesh:
            most = math.ceil(wanted * config.oversample)
        shown = wanted
        while (missing := wanted - sum(row["face"] is not False for row in rows)) and (
            len(rows) < most
        ):
            # As many as are missing, whatever the batch: which images are made never hangs on it.
            until = min(len(rows) + missing, most)
            shown = max(shown, until)
            written: Future[list[dict]] | None = None
            for start in range(len(rows), until, config.batch_size):
                drawn = []
                for index in range(start, min(start + config.batch_size, until)):
                    image_s = image_seed(seed, class_id, index)
                    drawn.append(_Drawn(index, image_s, varied_prompt(config, prompt, image_s)))
                images = sampler(drawn)
                if written:
                    rows += written.result()
                    progress(len(rows), shown, "images")
                # The next batch is drawn meanwhile: compressing one takes a processor a quarter of
                # the time in which a GPU draws it.
                written = writer.submit(keep, drawn, images)
            assert written
            rows += written.result()
            progress(len(rows), shown, "images")
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), out_dir / "samples.parquet")
    seconds = time.monotonic() - begun_s
    faces = sum(bool(row["face"]) for row in rows)
    return {"seconds": seconds, "images_per_s": len(rows) / seconds, "faces": faces}


def run_class_images(
    config: DreamBoothConfig,
    sampling: SamplingConfig,
    *,
    base: BaseModel,
    seed: int,
    out_dir: Path,
    progress: Progress = silent,
) -> dict[str, float]:
    """Write `images/<index>.png`: what the base makes of the class prompt, for prior preservation.

    Args:
        config: number of class images, and their prompt.
        sampling: steps, guidance scale, scheduler, batch size.
        base: the base model.
        seed: of the study.
        out_dir: an empty folder.
        progress: told after each batch.

    Returns:
        Seconds, and images per second.
    """
    begun_s = time.monotonic()
    loaded = load_base(base)
    sampler = _Sampler(sampling, loaded, loaded.pipeline)
    (out_dir / "images").mkdir()
    for start in range(0, config.class_images, sampling.batch_size):
        stop = min(start + sampling.batch_size, config.class_images)
        drawn = [
            _Drawn(index, derived_seed(seed, "class-images", index), config.class_prompt)
            for index in range(start, stop)
        ]
        for what, image in zip(drawn, sampler(drawn), strict=True):
            _save(what, image, {"base_model": base.identity}, out_dir)
        progress(stop, config.class_images, "class images")
    seconds = time.monotonic() - begun_s
    return {"seconds": seconds, "images_per_s": config.class_images / seconds}


@dataclass(frozen=True)
class _Drawn:
    index: int
    seed: int
    prompt: str


class _Sampler:
    """The networks with a sampler of our choice; gives a batch of pictures."""

    def __init__(
        self, config: SamplingConfig, loaded: LoadedBase, pipeline: StableDiffusionPipeline
    ) -> None:
        self._config, self._loaded = config, loaded
        scheduler = new_scheduler(pipeline.scheduler, config.scheduler)
        self._pipeline = StableDiffusionPipeline(
            **{**pipeline.components, "scheduler": scheduler}, requires_safety_checker=False
        )
        self._pipeline.set_progress_bar_config(disable=True)
        self._stops = stops(scheduler, config.steps)
        self._one_by_one = False
        self._forward = pipeline.unet.forward
        self._predict = Replay(_predicting(self._forward))
        unet = pipeline.unet.config
        self._size = (unet.in_channels, unet.sample_size, unet.sample_size)

    def __call__(self, drawn: Sequence[_Drawn]) -> list[Image.Image]:
        """The pictures; one by one when the memory does not hold them all.

        Raises:
            StageError: the memory does not hold one picture.
        """
        if len(drawn) > 1 and self._one_by_one:
            return [image for each in drawn for image in self([each])]
        try:
            return self._draw(drawn)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if len(drawn) == 1:
            raise StageError(
                "The memory is too small to draw one image; use a smaller base model or a larger "
                "machine."
            )
        logger.warning("not enough memory for %d images at a time: drawing one by one", len(drawn))
        self._one_by_one = True
        # Its recordings hold the memory of the larger batch.
        self._predict = Replay(_predicting(self._forward))
        return self(drawn)

    def _draw(self, drawn: Sequence[_Drawn]) -> list[Image.Image]:
        noise = torch.stack(
            [
                torch.randn(self._size, generator=torch.Generator().manual_seed(each.seed))
                for each in drawn
            ]
        )
        with torch.no_grad(), self._loaded.accelerator.autocast(), self._replayed():
            return self._pipeline(
                [each.prompt for each in drawn],
                latents=noise.to(self._loaded.accelerator.device),
                num_inference_steps=self._config.steps,
                timesteps=self._stops,
                guidance_scale=self._config.guidance_scale,
                callback_on_step_end=self._unguide_in_time,
                callback_on_step_end_tensor_inputs=["prompt_embeds"],
            ).images

    @contextmanager
    def _replayed(self) -> Iterator[None]:
        """The pipeline's calls of its UNet, replayed where there is a GPU."""

        def forward(
            sample: torch.Tensor,
            timestep: torch.Tensor,
            encoder_hidden_states: torch.Tensor,
            **_: Any,
        ) -> tuple[torch.Tensor]:
            return (self._predict(sample, timestep.to(sample.device), encoder_hidden_states),)

        unet = self._pipeline.unet
        before = vars(unet).get("forward")
        unet.forward = forward
        try:
            yield
        finally:
            # A network that keeps its own method waits for a garbage collection.
            if before:
                unet.forward = before
            else:
                del unet.forward

    def _unguide_in_time(
        self,
        pipeline: StableDiffusionPipeline,
        step: int,
        _time: torch.Tensor,
        tensors: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Leave out the guidance once the picture is decided: a later step takes half the time."""
        guided = math.ceil(self._config.guided_share * self._config.steps)
        if step + 1 == guided and pipeline.do_classifier_free_guidance:
            # diffusers' own recipe for a guidance that changes on the way.
            pipeline._guidance_scale = 1.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1]
        return tensors


def _predicting(forward: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    """A UNet's call from tensors to a tensor."""
    return lambda sample, timestep, words: forward(sample, timestep, words, return_dict=False)[0]


@contextmanager
def _with_concept(loaded: LoadedBase, concept_dir: Path) -> Iterator[StableDiffusionPipeline]:
    """The base with a concept in it, which is taken out again."""
    pipeline = loaded.pipeline
    if (concept_dir / "unet").is_dir():
        own = {
            "unet": UNet2DConditionModel.from_pretrained(
                concept_dir / "unet", use_safetensors=True, local_files_only=True
            ),
            "text_encoder": CLIPTextModel.from_pretrained(
                concept_dir / "text_encoder", use_safetensors=True, local_files_only=True
            ),
        }
        tuned = StableDiffusionPipeline(
            **{**pipeline.components, **own}, requires_safety_checker=False
        )
        loaded.halve(tuned.to(pipeline.device))
        yield tuned
        return
    taken_off: list[Callable[[], None]] = []
    try:
        for network, layers in load_adapters(concept_dir).items():
            taken_off.append(adapters.apply(getattr(pipeline, network), layers))
        yield pipeline
    finally:
        for take_off in taken_off:
            take_off()


_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("seed", pa.int64()),
        ("prompt", pa.string()),
        ("file", pa.string()),
        ("sha256", pa.string()),
        # Null where nobody looked.
        ("face", pa.bool_()),
    ]
)


def _save(
    what: _Drawn,
    image: Image.Image,
    about: dict[str, str],
    out_dir: Path,
    signer: Signer | None = None,
) -> dict:
    """Write a picture that says what it is; returns its row."""
    file = f"images/{what.index:05d}.png"
    info = PngImagePlugin.PngInfo()
    told = {
        "synthetic": "true",
        "generator": "synth-pipeline",
        **about,
        "prompt": what.prompt,
        "seed": str(what.seed),
        "index": str(what.index),
    }
    for name, value in told.items():
        info.add_itxt(name, value)
    image.save(out_dir / file, pnginfo=info)
    if signer:
        signer.sign(out_dir / file, told)
    return {
        "index": what.index,
        "seed": what.seed,
        "prompt": what.prompt,
        "file": file,
        "sha256": file_sha256(out_dir / file),
    }
