"""What the embedded base model is made of: its pictures, its words, and its four networks."""

import json
import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from synth_pipeline.phantom.dataset import PhantomRenderer, class_names, random_person
from synth_pipeline.progress import Progress

SIZE_PX = 128
_CHUNK = 250
_WORD_END = "</w>"
_TEXT_LENGTH = 48


def render_training_set(
    folder: Path, *, images: int, seed: int, landmark_model: Path, progress: Progress
) -> tuple[np.ndarray, list[str]]:
    """Render pictures with captions in several processes, going on where it stopped.

    Args:
        folder: chunks are kept here.
        images: how many, a multiple of 250.
        seed: picture i depends on (seed, i) only.
        landmark_model: `face_landmarker.task`.
        progress: told after each chunk.

    Returns:
        (images, 128, 128, 3) uint8 sRGB, memory-mapped chunks joined, and the captions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = range(math.ceil(images / _CHUNK))
    missing = [i for i in chunks if not (folder / f"{i:04d}.json").exists()]
    make = partial(_render_chunk, folder, seed, landmark_model)
    with ProcessPoolExecutor(2) as pool:
        for done, _ in enumerate(pool.map(make, missing), start=1):
            progress(done, len(missing), "chunks of phantoms")
    pictures = np.concatenate([np.load(folder / f"{i:04d}.npy") for i in chunks])
    captions = [c for i in chunks for c in json.loads((folder / f"{i:04d}.json").read_text())]
    return pictures[:images], captions[:images]


def _render_chunk(folder: Path, seed: int, landmark_model: Path, chunk: int) -> None:
    renderer = PhantomRenderer(landmark_model)
    pictures, captions = [], []
    for index in range(chunk * _CHUNK, (chunk + 1) * _CHUNK):
        picture, caption = random_person(np.random.default_rng([seed, 3, index]), renderer, SIZE_PX)
        pictures.append(np.asarray(picture))
        captions.append(caption)
    np.save(folder / f"{chunk:04d}.npy", np.stack(pictures))
    # Written last: its being there means that the chunk is whole.
    beside = folder / f"{chunk:04d}.part"
    beside.write_text(json.dumps(captions))
    beside.replace(folder / f"{chunk:04d}.json")


def prompt_for(caption: str, rng: np.random.Generator) -> str:
    """The words shown with a picture in one training step.

    A tenth has none (classifier-free guidance, Ho and Salimans 2022). Some call the child by an
    invented word, so that `photo of a <word> child`, the instance prompt of DreamBooth, is a
    prompt that the base already answers with a face.
    """
    draw = rng.random()
    if draw < 0.1:
        return ""
    if draw < 0.2:
        return "photo of a child"
    if draw < 0.35:
        word = class_names(1, int(rng.integers(2**31)))[0]
        return f"photo of a {word} child"
    start, *parts = caption.split(", ")
    kept = [part for part in parts if rng.random() < 0.85]
    return ", ".join([start, *kept])


def train_tokenizer(captions: list[str], out_dir: Path) -> CLIPTokenizer:
    """A small byte-pair vocabulary in CLIP's form; any word falls back to its bytes."""
    # CLIP's own splitting: letters, single digits, runs of anything else.
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer = Tokenizer(BPE(end_of_word_suffix=_WORD_END))
    tokenizer.normalizer = Lowercase()
    from tokenizers import Regex

    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(pattern), "removed", invert=True), ByteLevel(add_prefix_space=False)]
    )
    trainer = BpeTrainer(
        vocab_size=1200, end_of_word_suffix=_WORD_END, initial_alphabet=ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(captions, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + _WORD_END for letter in letters)]
    words += [a + b for a, b in merges if a + b not in words]
    words += ["<|startoftext|>", "<|endoftext|>"]
    out_dir.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    (out_dir / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (out_dir / "merges.txt").write_text("\n".join(lines) + "\n")
    return CLIPTokenizer(
        vocab=str(out_dir / "vocab.json"),
        merges=str(out_dir / "merges.txt"),
        model_max_length=_TEXT_LENGTH,
    )


def new_autoencoder(seed: int) -> AutoencoderKL:
    """128×128×3 to 16×16×8; about 1.7 million weights."""
    torch.manual_seed(seed)
    channels = (16, 32, 64, 96)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        mid_block_add_attention=False,
    )


def new_unet(seed: int) -> UNet2DConditionModel:
    """The denoiser of 16×16×8 latents, with cross-attention at two resolutions."""
    torch.manual_seed(seed + 1)
    return UNet2DConditionModel(
        sample_size=SIZE_PX // 8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=96,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_text_encoder(seed: int, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Three small layers: the captions are short and their words few."""
    torch.manual_seed(seed + 2)
    end = tokenizer.eos_token_id
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=_TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def new_scheduler() -> DDIMScheduler:
    """The noise schedule: velocity prediction down to pure noise (Lin et al. 2024)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
