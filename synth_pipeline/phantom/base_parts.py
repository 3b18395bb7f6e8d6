"""What the embedded base model is made of: its pictures, its words, and its four networks."""

import json
import math
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from synth_pipeline import checkpoints
from synth_pipeline.atomic import sweep_beside
from synth_pipeline.phantom.dataset import PhantomRenderer, class_names, random_person
from synth_pipeline.progress import Progress
from synth_pipeline.store import file_sha256

SIZE_PX = 128
_CHUNK = 250
_WORD_END = "</w>"
_TEXT_LENGTH = 48
#: At most; the captions' words need about half as many.
_MERGES = 500


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
    sweep_beside(folder)
    chunks = range(math.ceil(images / _CHUNK))
    missing = [i for i in chunks if not _is_whole(folder, i)]
    make = partial(_render_chunk, folder, seed, landmark_model)
    with ProcessPoolExecutor(2) as pool:
        try:
            for done, _ in enumerate(pool.map(make, missing), start=1):
                progress(done, len(missing), "chunks of phantoms")
        except KeyboardInterrupt:
            # A chunk takes half a minute, for which the pool would wait.
            for process in active_children():
                process.terminate()
            raise
    pictures = np.concatenate([np.load(folder / f"{i:04d}.npy") for i in chunks])
    captions = [c for i in chunks for c in checkpoints.load_values(folder / f"{i:04d}.json")[1]]
    return pictures[:images], captions[:images]


def _render_chunk(folder: Path, seed: int, landmark_model: Path, chunk: int) -> None:
    renderer = PhantomRenderer(landmark_model)
    pictures, captions = [], []
    for index in range(chunk * _CHUNK, (chunk + 1) * _CHUNK):
        picture, caption = random_person(np.random.default_rng([seed, 3, index]), renderer, SIZE_PX)
        pictures.append(np.asarray(picture))
        captions.append(caption)
    file = folder / f"{chunk:04d}.npy"
    np.save(file, np.stack(pictures))
    # Written last, with the hash of the pictures.
    checkpoints.save_values(file.with_suffix(".json"), [file_sha256(file), captions])


def _is_whole(folder: Path, chunk: int) -> bool:
    """Whether a chunk's pictures are there as they were written."""
    file = folder / f"{chunk:04d}.npy"
    known = checkpoints.load_values(file.with_suffix(".json"))
    try:
        return known is not None and file_sha256(file) == known[0]
    except (FileNotFoundError, IsADirectoryError):
        return False


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


def make_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """A small byte-pair vocabulary in CLIP's form; any word falls back to its bytes.

    Args:
        captions: ASCII text whose words become tokens.
        folder: where the vocabulary is kept; one that is there already is used as it is, because
            a training that goes on must find every word under its old number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "merges.json"
    merges = checkpoints.load_values(kept)
    if merges is None:
        merges = _learn_merges(captions)
        checkpoints.save_values(kept, merges)
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + _WORD_END for letter in letters)]
    words += [first + second for first, second in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=_TEXT_LENGTH,
    )


def _learn_merges(captions: list[str]) -> list[tuple[str, str]]:
    """The byte-pair merges of the captions, the most frequent pair first.

    `tokenizers` has a trainer, but it breaks ties in the order of a hash table, which differs
    between runs: the same captions gave different numbers to the same words.
    """
    # CLIP's own splitting: letters, single digits, runs of anything else.
    counts = Counter(
        word
        for caption in captions
        for word in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", caption.lower())
    )
    pieces = {word: [*word[:-1], word[-1] + _WORD_END] for word in sorted(counts)}
    merges: list[tuple[str, str]] = []
    while len(merges) < _MERGES:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in pieces.values():
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def new_autoencoder(seed: int, *, layers: int = 1) -> AutoencoderKL:
    """128×128×3 to 16×16×8; about 1.7 million weights with one layer a block, 2.2 with two."""
    torch.manual_seed(seed)
    channels = (16, 32, 64, 96)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=layers,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        mid_block_add_attention=False,
    )


def deepened(autoencoder: AutoencoderKL, seed: int) -> AutoencoderKL:
    """The same function with a second layer in each block, to be trained on.

    The added layers begin as identities (Net2Net, Chen et al. 2016, section 2.3), so that nothing
    learned is lost: training so deep an autoencoder from its first step costs more for the same.
    """
    deep = new_autoencoder(seed, layers=2)
    missing, unexpected = deep.load_state_dict(autoencoder.state_dict(), strict=False)
    assert not unexpected
    added = {name.rsplit(".", 2)[0] for name in missing}
    for name in added:
        last = deep.get_submodule(name).conv2
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    return deep


def fix_posterior(autoencoder: AutoencoderKL) -> None:
    """Make the encoder's posterior a point.

    The spread that it learned made the latents smooth. The denoiser is trained on their means, so
    whoever draws from the spread, as DreamBooth does, would teach it noise: measured, it was twice
    the signal in two of the eight channels.
    """
    layer = autoencoder.quant_conv
    half = layer.out_channels // 2
    with torch.no_grad():
        layer.weight[half:] = 0
        # diffusers clamps the logarithm of the variance here.
        layer.bias[half:] = -30


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
        # What diffusers calls up to date; with trailing spacing it has no effect.
        steps_offset=1,
        set_alpha_to_one=True,
    )
