"""The configuration of a study: one frozen model, every error reported at once.

A field marked `SPEED` changes how fast a result is made, never what it is: it stays out of the
content keys, so that a larger batch on a better machine is still a cache hit.
"""

from itertools import product
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from synth_pipeline import bucket, yaml_files
from synth_pipeline.errors import InputError
from synth_pipeline.overrides import with_overrides
from synth_pipeline.places import from_home

SPEED = "speed"
_SPEED: dict[str, Any] = {"affects": SPEED}

Embedding = Literal["five-point", "mesh", "distances", "combined"]
Strategy = Literal["top-per-class", "top-overall", "diverse"]
LoraTargets = Literal["attention", "all"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
Regime = Literal["real", "synthetic", "mixed"]
#: An integer is a number of images in all; a share (0, 1] is of all images that were generated.
Scale = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)]
_ADVICE = "name a YAML file, such as configs/quickstart.yaml"
#: A file or a folder on this machine (or, in some keys, a name or an address).
Place = Annotated[str, AfterValidator(from_home)]


class Section(BaseModel):
    """A part of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def key_slice(self) -> dict[str, Any]:
        """What of this section decides a stage's content, as plain JSON values."""
        speed = {
            name
            for name, info in type(self).model_fields.items()
            if isinstance(info.json_schema_extra, dict)
            and info.json_schema_extra.get("affects") == SPEED
        }
        return self.model_dump(mode="json", exclude=speed)


def _plain(text: str) -> str:
    """A text that goes into prompts as it is, so that a placeholder would be read out."""
    if "{" in text or "}" in text:
        raise ValueError("is used as it is, so it takes no placeholder; leave the braces out")
    return text


class PhantomCases(Section):
    """Procedural cases instead of photos (`cases.format: phantom`)."""

    benchmark: Literal["phantom-20", "phantom-103"] | None = Field(
        None, description="a set that others use too; it fixes all the rest"
    )
    classes: int = Field(8, ge=1, le=1000)
    per_class: int = Field(5, ge=1, description="training images of each class")
    test_per_class: int = Field(10, ge=0, description="held-out images of each class")
    size_px: int = Field(128, ge=64, le=1024)

    @model_validator(mode="after")
    def _a_benchmark_is_not_altered(self) -> Self:
        # By value, not by mention: the resolved configuration mentions everything.
        altered = sorted(
            name
            for name, info in type(self).model_fields.items()
            if name != "benchmark" and getattr(self, name) != info.default
        )
        if self.benchmark and altered:
            raise ValueError(f"{self.benchmark} fixes {', '.join(altered)}; leave that out")
        return self


class CasesConfig(Section):
    """Where the real photos come from and how they are split."""

    source: Place = Field("", description="folder of photos; empty with format phantom")
    format: Literal["imagefolder", "csv", "rdface", "phantom", "registry"] = "imagefolder"
    inbox: Place = Field(
        "",
        description="registry: where new photos arrive, a folder or an address such as s3://...",
        json_schema_extra=_SPEED,
    )
    max_classes: int | None = Field(None, ge=2, description="the first n classes by name")
    test_fraction: float = Field(0.25, ge=0, lt=1)
    phantom: PhantomCases = PhantomCases()


class DreamBoothConfig(Section):
    """Fine-tuning of one class (DreamBooth, Ruiz et al. 2023; LoRA, Hu et al. 2022)."""

    base_model: Place = Field("embedded", description="embedded, a diffusers folder, or a hub id")
    base_vae: Place | None = Field(None, description="another VAE: a folder or a hub id")
    revision: str | None = Field(None, description="hub revision; a commit makes it reproducible")
    method: Literal["lora", "full"] = "lora"
    instance_prompt: str = "photo of a {class_name} child"
    morphs: bool = Field(
        False, description="learn from morphs of a class's photos instead of the photos themselves"
    )
    steps: int = Field(800, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    batch_size: int = Field(1, ge=1)
    gradient_accumulation: int = Field(1, ge=1, description="batches to a step")
    gradient_checkpointing: bool = Field(
        False, description="less memory, a third more time", json_schema_extra=_SPEED
    )
    optimiser: Literal["adamw", "adamw-8bit"] = Field(
        "adamw", description="adamw-8bit needs an NVIDIA GPU and the package bitsandbytes"
    )
    rank: int = Field(8, ge=1, description="LoRA rank")
    lora_targets: LoraTargets = Field(
        "attention", description="all: every linear and convolutional layer of the UNet's blocks"
    )
    lora_text_encoder: bool = Field(False, description="adapters on the text encoder too")
    min_snr_gamma: float | None = Field(
        None, gt=0, description="bound of the weight of little noise (Hang et al. 2023); often 5"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="keep a moving average of the weights instead of the last"
    )
    prior_weight: float = Field(
        0.0, ge=0, description="of prior preservation: above 0, class images are learned beside"
    )
    class_prompt: str = Field("photo of a child", description="of the class images")
    class_images: int = Field(100, ge=1, description="made once, for all classes of the study")
    precision: Precision = Field(
        "auto", description="bf16 on GPUs that compute with it, fp16 on others, fp32 without"
    )
    resolution_px: int | None = Field(None, ge=32, description="none: what the base was made for")
    concepts_at_once: int = Field(
        1, ge=1, description="LoRA: classes that learn in one batch", json_schema_extra=_SPEED
    )
    checkpoint_steps: int = Field(
        100, ge=1, description="a killed fine-tuning goes on from here", json_schema_extra=_SPEED
    )

    @field_validator("instance_prompt")
    @classmethod
    def _prompt_names_the_class(cls, value: str) -> str:
        try:
            found = [part[1:] for part in Formatter().parse(value) if part[1] is not None]
        except ValueError:
            raise ValueError(
                "a brace has no partner; write {{ and }} for braces of the text"
            ) from None
        for name, style, conversion in found:
            if name != "class_name":
                raise ValueError(
                    f"there is no value for {{{name}}}; {{class_name}} is the only placeholder"
                )
            if style or conversion:
                raise ValueError("write {class_name} without a conversion or a format")
        if not found:
            raise ValueError("must contain {class_name}")
        return value

    @field_validator("class_prompt")
    @classmethod
    def _class_prompt_is_plain(cls, value: str) -> str:
        return _plain(value)


class SamplingConfig(Section):
    """Generation of the synthetic images of one class."""

    images_per_class: int = Field(100, ge=1)
    steps: int = Field(30, ge=1)
    guidance_scale: float = Field(7.5, ge=1)
    guided_share: float = Field(
        1.0, gt=0, le=1, description="of the steps, from the first on: the last change little by it"
    )
    scheduler: Literal["base", "dpmsolver++", "ddim"] = "dpmsolver++"
    vary: dict[str, tuple[str, ...]] = Field(
        {}, description="words added to the prompt: of each list one, by the image's seed"
    )
    oversample: float = Field(
        1.5, ge=1, description="at most so many times the images, to replace those without a face"
    )
    batch_size: int = Field(4, ge=1, json_schema_extra=_SPEED)
    # Places decide nothing; the certificate's content enters the key.
    c2pa_certificate: Place | None = Field(
        None, description="PEM chain to sign the images with", json_schema_extra=_SPEED
    )
    c2pa_key: Place | None = Field(
        None, description="PEM private key of its first certificate", json_schema_extra=_SPEED
    )

    @model_validator(mode="after")
    def _a_certificate_has_its_key(self) -> Self:
        if (self.c2pa_certificate is None) != (self.c2pa_key is None):
            raise ValueError("c2pa_certificate and c2pa_key go together; give both or neither")
        return self

    @field_validator("vary")
    @classmethod
    def _words_are_plain(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for words in value.values():
            for each in words:
                _plain(each)
        return value

    @model_validator(mode="after")
    def _no_list_is_empty(self) -> Self:
        if empty := [name for name, words in self.vary.items() if not words]:
            raise ValueError(f"vary.{empty[0]} has no words; give some or leave it out")
        return self


class RankingConfig(Section):
    """Landmark embedding and cosine ranking against class prototypes."""

    embedding: Embedding = "combined"
    backbone: str | None = Field(
        None, description="timm name; how far its features lie from the class's, beside the ranks"
    )


class CopiesConfig(Section):
    """The copy audit: which synthetic images are too close to a training photo."""

    false_alarm_rate: float = Field(
        0.01, gt=0, lt=0.5, description="share of pairs of different people that may lie closer"
    )
    backbone: str | None = Field(None, description="timm name; its features are compared too")


class SelectionConfig(Section):
    """Which synthetic images are trained on."""

    strategy: Strategy = "top-per-class"
    compare: tuple[Strategy, ...] = Field(
        (), description="further strategies to train on, for the curve of the regime synthetic"
    )
    scales: tuple[Scale, ...] = Field((0.5, 1.0), min_length=1)


class Grid(Section):
    """Hyper-parameters to choose among by cross-validation; empty lists choose nothing."""

    learning_rate: tuple[Annotated[float, Field(gt=0)], ...] = ()
    weight_decay: tuple[Annotated[float, Field(ge=0)], ...] = ()


class RecognitionConfig(Section):
    """Training and evaluation of the recognisers."""

    backbones: tuple[str, ...] = Field(
        ("resnet18",), min_length=1, description="the paper's by short names, or timm's names"
    )
    regimes: tuple[Regime, ...] = Field(("real", "synthetic"), min_length=1)
    pretrained: bool | Place = Field(
        True,
        description="published weights, none, embedded: the ones learned on phantoms, or a folder",
    )
    head: Literal["linear", "se"] = Field(
        "linear", description="se: squeeze-and-excitation and batch norm before the classifier"
    )
    protocol: Literal["published", "tuned"] = Field(
        "published", description="how a fold is trained; see protocols.py"
    )
    folds: int = Field(5, ge=2)
    epochs: int = Field(50, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    grid: Grid = Grid()
    dropout: float = Field(0.5, ge=0, lt=1)
    flips: bool = Field(
        False, description="tuned: mirrored pictures too; asymmetry is a phenotype, so not so"
    )
    size_px: int = Field(224, ge=32)
    precision: Precision = Field(
        "auto", description="bf16 on GPUs that compute with it, fp16 on others, fp32 without"
    )
    checkpoint_s: float = Field(
        60, ge=0, description="a killed fold goes on from here", json_schema_extra=_SPEED
    )

    @property
    def tunes(self) -> bool:
        """Whether hyper-parameters are chosen before the folds are trained."""
        return self.grid != Grid()

    def points(self) -> list[dict[str, float]]:
        """Every combination of the grid; what it does not vary is as configured."""
        rates = self.grid.learning_rate or (self.learning_rate,)
        decays = self.grid.weight_decay or (self.weight_decay,)
        return [{"learning_rate": r, "weight_decay": d} for r, d in product(rates, decays)]


class StudyConfig(Section):
    """A whole study, as one YAML file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    seed: int = Field(42, ge=0, lt=2**31)
    engine: Literal["inline", "workers"] = "inline"
    store: str | None = Field(
        None,
        description="a bucket behind <root>/store, such as s3://bucket/prefix",
        json_schema_extra=_SPEED,
    )
    cases: CasesConfig = CasesConfig()
    dreambooth: DreamBoothConfig = DreamBoothConfig()
    sampling: SamplingConfig = SamplingConfig()
    ranking: RankingConfig = RankingConfig()
    copies: CopiesConfig = CopiesConfig()
    selection: SelectionConfig = SelectionConfig()
    recognition: RecognitionConfig = RecognitionConfig()

    @field_validator("store")
    @classmethod
    def _store_is_a_place(cls, value: str | None) -> str | None:
        if value is not None and not bucket.URL.match(value):
            raise ValueError(
                "not of the form s3://bucket/prefix (credentials come from the environment, "
                "another server's address from AWS_ENDPOINT_URL)"
            )
        return value

    @model_validator(mode="after")
    def _source_is_named(self) -> Self:
        if self.cases.format not in ("phantom", "registry") and not self.cases.source:
            raise ValueError("cases.source is empty: name the folder of photos")
        return self


def load_config(path: Path, overrides: list[str] | None = None) -> StudyConfig:
    """Read a study's YAML file and apply `--set` overrides.

    Args:
        path: YAML file.
        overrides: texts like `cases.max_classes=5`, applied in order.

    Raises:
        InputError: the file is missing or no YAML, or any value is wrong; all wrong values are
            named in one message.
    """
    raw = yaml_files.read_mapping(path, "Configuration", _ADVICE)
    try:
        return StudyConfig.model_validate(with_overrides(raw, overrides or [], StudyConfig))
    except ValidationError as error:
        raise InputError(_all_errors(path, error)) from None


def _all_errors(path: Path, error: ValidationError) -> str:
    """Every wrong value in one sentence, each with its dotted name."""
    seen: dict[str, str] = {}
    most = 10
    for item in error.errors():
        # Union members (`scales.0.int`) are pydantic's names, not the user's.
        parts = [str(p) for p in item["loc"] if p not in ("int", "float", "constrained-int")]
        name = ".".join(p for p in parts if "[" not in p)
        if item["type"] == "extra_forbidden":
            message = "is not a known key (see docs/configuration.md)"
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
        label = f"{name} " if item["type"] == "extra_forbidden" else f"{name}: " if name else ""
        seen.setdefault(name, f"{label}{message}")
    told = [*seen.values()]
    if len(told) > most:
        told = [*told[:most], f"and {len(told) - most} more"]
    return f"Configuration {path}: " + "; ".join(told) + "."


def dump_config(config: StudyConfig) -> str:
    """The whole configuration with every default written out, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
