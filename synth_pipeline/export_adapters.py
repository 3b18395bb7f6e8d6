"""Adapters that diffusers' `load_lora_weights` reads, of classes that the copy audit has passed.

An adapter remembers faces. Nothing proves that it does not show one again, so what can be asked is
asked, and a class of which it cannot be told stays behind.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
import yaml

from synth_pipeline.adapter_snippet import snippet, where
from synth_pipeline.config import DreamBoothConfig
from synth_pipeline.errors import InputError
from synth_pipeline.progress import Progress
from synth_pipeline.study import Study

#: How seldom false alarms alone may withhold as many images as were withheld.
_LEVEL = 0.05


def check(config: DreamBoothConfig) -> None:
    """Make sure that there are adapters.

    Raises:
        InputError: the study's method makes none.
    """
    if config.method != "lora":
        raise InputError(
            f"dreambooth.method is {config.method}, which makes whole models and no adapters; "
            "leave out --adapters."
        )


def write(
    study: Study,
    folder: Path,
    classes: Sequence[str],
    chosen: Sequence[str],
    cards: jinja2.Environment,
    progress: Progress,
) -> tuple[int, dict[str, str]]:
    """Write `<class>/pytorch_lora_weights.safetensors` and a card for each class that passed.

    Args:
        study: with its images audited and memorisation measured.
        folder: to be made.
        classes: of the study.
        chosen: whose adapters are exported if they passed.
        cards: where the card's template is.
        progress: told after each class.

    Returns:
        How many were written; and by class why the others were not.
    """
    settings = study.config.dreambooth
    artifact = study.graph.artifact
    copies_dir = artifact(study.copies(classes)).path
    calibration = json.loads((copies_dir / "thresholds.json").read_bytes())["calibration"]
    audited: dict[str, Counter[bool | None]] = {name: Counter() for name in classes}
    table = pq.read_table(copies_dir / "copies.parquet", columns=["class_id", "copy"])
    for row in table.to_pylist():
        audited[row["class_id"]][row["copy"]] += 1
    memorised = {
        row["class_id"]: row
        for row in pq.read_table(
            artifact(study.memorisation(classes)).path / "memorisation.parquet"
        ).to_pylist()
    }
    rate = study.config.copies.false_alarm_rate
    written, refused = 0, {}
    for done, name in enumerate(chosen, start=1):
        why = objection(audited[name], memorised[name], rate, calibration)
        if why:
            refused[name] = f"its adapter is not exported: {why}."
            continue
        target = folder / name
        target.mkdir(parents=True)
        concept = artifact(study.dreambooth(name)).path
        shutil.copyfile(
            concept / "pytorch_lora_weights.safetensors",
            target / "pytorch_lora_weights.safetensors",
        )
        class_name = study.case_set.class_name(name)
        prompt = settings.instance_prompt.format(class_name=class_name)
        header = {
            "license": "other",
            "license_name": "not-chosen-yet",
            "library_name": "diffusers",
            "tags": ["lora", "text-to-image", "stable-diffusion", "synthetic", "faces"],
            "instance_prompt": prompt,
        }
        card = cards.get_template("adapter_card.md.j2").render(
            header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
            class_id=name,
            snippet=snippet(study.config, study.base, prompt),
            base_model=where(study.config, study.base),
            settings=settings,
            learned_from=study.faces_in_photos(name).learned_from(
                settings.morphs,
                "procedural faces" if study.config.cases.format == "phantom" else "real photos",
            ),
            photo_sentence=study.faces_in_photos(name).sentence(settings.morphs),
            copies=audited[name][True],
            images=audited[name].total(),
            rate=rate,
            memorised=memorised[name],
        )
        (target / "README.md").write_text(card, encoding="utf-8")
        written += 1
        progress(done, len(chosen), "adapters")
    return written, refused


def objection(
    audited: Mapping[bool | None, int], memorised: Mapping[str, Any], rate: float, calibration: str
) -> str:
    """Why a class has not passed the copy audit; nothing if it has.

    It has passed where (1) the audit was calibrated on photos of different people, and could read
    every image; (2) no more images were withheld than its false alarms alone give in 1 of 20 audits
    (exact binomial tail at `rate`); and (3) the memorisation score has a 95 % interval, which
    does not lie above one half. A class without two held-out
    photos with a face has none, so it never passes.

    Args:
        audited: how many images are copies, are not, and (none) cannot be read.
        memorised: the class's row of `memorisation.parquet`.
        rate: the audit's false alarms, of images that are no copies.
        calibration: of `thresholds.json`, in words.
    """
    images, copies = audited.get(True, 0) + audited.get(False, 0), audited.get(True, 0)
    if calibration.startswith("none"):
        return "the copy audit had no photos of different people to be calibrated on"
    if not images or audited.get(None, 0):
        return f"the copy audit could read only {images} of its images"
    found = []
    if chance_of_as_many(copies, images, rate) <= _LEVEL:
        found.append(
            f"{copies} of its {images} images were withheld as copies, more than false alarms "
            f"({rate:.1%} of images) explain"
        )
    if memorised["low"] is None:
        found.append(
            f"memorisation cannot be told from {memorised['images']} synthetic images, "
            f"{memorised['training']} training photos and {memorised['held_out']} held-out photos "
            "with a face (two of each are needed)"
        )
    elif memorised["low"] > 0.5:
        found.append(
            f"its images are nearer to training photos than to held-out ones in "
            f"{memorised['score']:.1%} (95 % interval {memorised['low']:.1%} to "
            f"{memorised['high']:.1%}; chance is 50 %)"
        )
    return "; and ".join(found)


def chance_of_as_many(copies: int, images: int, rate: float) -> float:
    """The probability that false alarms alone withhold so many images or more (binomial)."""
    fewer = sum(comb(images, k) * rate**k * (1 - rate) ** (images - k) for k in range(copies))
    return max(0.0, 1 - fewer)
