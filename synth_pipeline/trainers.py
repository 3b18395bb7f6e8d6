"""What of the base model learns in DreamBooth: adapters, or all of it."""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

from synth_pipeline.base_model import BaseModel
from synth_pipeline.config import DreamBoothConfig, LoraTargets
from synth_pipeline.loaded_base import LoadedBase, load_base, load_pipeline

#: The attention's projections, as in the LoRA paper (Hu et al. 2022, section 4.2).
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


class LoraTrainer:
    """Adapters on layers of the shared base's UNet; taken off again when done."""

    def __init__(self, loaded: LoadedBase, config: DreamBoothConfig) -> None:
        self.unet = loaded.pipeline.unet
        self.unet.add_adapter(
            LoraConfig(
                r=config.rank,
                lora_alpha=config.rank,
                init_lora_weights="gaussian",
                target_modules=_lora_targets(self.unet, config.lora_targets),
            )
        )
        self.weights = [p for p in self.unet.parameters() if p.requires_grad]
        self.trains_text = False

    def save(self, out_dir: Path) -> None:
        """Write the adapters in the format of diffusers' `load_lora_weights`."""
        # As peft names them. diffusers' own conversion renames the attention's layers only; of a
        # file in which others are adapted too, `load_lora_weights` then drops the attention.
        layers = get_peft_model_state_dict(self.unet)
        StableDiffusionPipeline.save_lora_weights(
            out_dir, unet_lora_layers=layers, safe_serialization=True
        )

    def close(self) -> None:
        """Give the base back."""
        # The next class starts from the base as it was.
        self.unet.delete_adapters(["default"])
        self.unet.eval()


def _lora_targets(unet: torch.nn.Module, which: LoraTargets) -> list[str]:
    """The names of the layers that get an adapter."""
    if which == "attention":
        return list(_ATTENTION)
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and "block" in name
    ]


class FullTrainer:
    """All weights of UNet and text encoder, as published, on a copy of the base."""

    def __init__(self, loaded: LoadedBase) -> None:
        self.unet = loaded.pipeline.unet.requires_grad_(True)
        self.text_encoder = loaded.pipeline.text_encoder.requires_grad_(True)
        self.weights = [*self.unet.parameters(), *self.text_encoder.parameters()]
        self.trains_text = True

    def save(self, out_dir: Path) -> None:
        """Write both models as diffusers and transformers load them."""
        for name, module in (("unet", self.unet), ("text_encoder", self.text_encoder)):
            # save_pretrained notes where the base was read from; a place is no content.
            module.register_to_config(_name_or_path="") if name == "unet" else None
            module.save_pretrained(out_dir / name, safe_serialization=True)
            path = out_dir / name / "config.json"
            settings = json.loads(path.read_text())
            settings.pop("_name_or_path", None)
            path.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")

    def close(self) -> None:
        """Nothing to give back: the copy goes with its owner."""


def own_copy(base: BaseModel) -> LoadedBase:
    """The base read afresh: training in full would spoil the shared one."""
    shared = load_base(base)
    pipeline = load_pipeline(base.folder, base.vae_folder).to(shared.accelerator.device)
    pipeline.vae.requires_grad_(False)
    return LoadedBase(pipeline, shared.accelerator)
