"""A Stable Diffusion pipeline as one file, with the names of the original repository.

The inverse of what diffusers' `from_single_file` does, for the layouts of `tiny_pipeline`. Names
after CompVis/stable-diffusion's `ldm`, as diffusers' own conversion scripts list them.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_AROUND = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.resnets.1.": "middle_block.2.",
}
_ATTENTION = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "group_norm": "norm",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pipeline with one layer a block, under their original names."""
    named = {}
    for name, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        named[f"model.diffusion_model.{_unet(name)}"] = value
    for name, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        original, value = _vae(name), value
        if ".attn_1." in original and value.ndim == 2:
            value = value[..., None, None]
        named[f"first_stage_model.{original}"] = value
    for name, value in load_file(folder / "text_encoder" / "model.safetensors").items():
        bare = name.removeprefix("text_model.")
        named[f"cond_stage_model.transformer.text_model.{bare}"] = value
    return {name: value.contiguous().clone() for name, value in named.items()}


def write_safetensors(folder: Path, path: Path) -> Path:
    save_file(checkpoint(folder), path)
    return path


def write_ckpt(folder: Path, path: Path) -> Path:
    torch.save({"state_dict": checkpoint(folder), "global_step": 1}, path)
    return path


def _unet(name: str) -> str:
    for ours, theirs in _AROUND.items():
        if name.startswith(ours):
            return theirs + _inside(name.removeprefix(ours))
    side, block, kind, rest = name.split(".", 3)
    number = int(block)
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{2 * number + 2}.0.op.{rest.removeprefix('0.conv.')}"
        layer, _, inner = rest.partition(".")
        place = 2 * number + 1 + int(layer)
        return f"input_blocks.{place}.{int(kind == 'attentions')}.{_inside(inner)}"
    layer, _, inner = rest.partition(".")
    place = 2 * number + (int(layer) if kind != "upsamplers" else 1)
    if kind == "upsamplers":
        # Behind the block's attentions, where it has some.
        return f"output_blocks.{place}.1.{inner}"
    return f"output_blocks.{place}.{int(kind == 'attentions')}.{_inside(inner)}"


def _inside(name: str) -> str:
    layer, _, rest = name.partition(".")
    return f"{_RESNET[layer]}.{rest}" if layer in _RESNET else name


def _vae(name: str) -> str:
    if not name.startswith(("encoder.", "decoder.")):
        return name
    side, _, name = name.partition(".")
    name = name.replace("conv_norm_out.", "norm_out.")
    parts = name.split(".")
    if parts[0] == "mid_block" and parts[1] == "attentions":
        layer = ".".join(parts[3:-1])
        return f"{side}.mid.attn_1.{_ATTENTION[layer]}.{parts[-1]}"
    name = name.replace("conv_shortcut", "nin_shortcut")
    if parts[0] == "mid_block":
        return f"{side}.mid.block_{int(parts[2]) + 1}.{name.split('.', 3)[3]}"
    if parts[0] in ("down_blocks", "up_blocks"):
        down = parts[0] == "down_blocks"
        level = int(parts[1]) if down else 1 - int(parts[1])
        rest = name.split(".", 4)
        where = f"{side}.{'down' if down else 'up'}.{level}"
        if parts[2] == "resnets":
            return f"{where}.block.{rest[3]}.{rest[4]}"
        return f"{where}.{'downsample' if down else 'upsample'}.{rest[4]}"
    return f"{side}.{name}"
