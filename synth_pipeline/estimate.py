"""What a run would take: minutes and bytes for each stage, and where the figure comes from.

Where this store holds artifacts of the same stage, what was measured when they were made is scaled
by the work (pictures learned, denoising passes, pictures through a network). Else the cost model is
asked (`cost_model`). Either is an estimate, for one device and one thing after another.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from synth_pipeline import cost_model, registry_cases
from synth_pipeline.class_names import class_ids
from synth_pipeline.config import DreamBoothConfig, SamplingConfig
from synth_pipeline.graph import PlanRow
from synth_pipeline.phantom.sets import phantoms_of
from synth_pipeline.publishing import failed_classes
from synth_pipeline.study import Study
from synth_pipeline.study_recognition import run_label

#: The newest artifacts of a stage tell more about this machine than all of them.
_LOOKED_AT = 40
#: Seconds a picture on a processor: MediaPipe's mesh (measured, two cores), comparing, reading.
_MESH_S, _COMPARED_S, _IMPORTED_S = 0.011, 0.01, 0.05
_PNG_BYTES_PER_PX = 1.5
_LANDMARKS_BYTES = 6000
_TABLE_BYTES = 4000
#: The held-out photos as they are, and under each of five changes.
_ASKED = 6
#: The stages that compute on a GPU where there is one.
ON_GPU = {"class-images", "dreambooth", "sampling", "training", "tuning", "evaluation"}


@dataclass(frozen=True)
class Cost:
    """What the rows of one stage would take.

    Attributes:
        count: how many would run.
        basis: `measured`, `modelled`, or `unknown` where neither says anything.
    """

    stage: str
    count: int
    seconds: float
    size_bytes: float
    basis: str


def estimate(study: Study, rows: Sequence[PlanRow]) -> list[Cost]:
    """Say what the rows that would run take, by stage, in the order in which they run.

    What waits for another stage counts as if it ran, though it may turn out to be cached.

    Args:
        study: that was planned.
        rows: of `plan`.
    """
    waiting: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.status == "run":
            waiting[row.stage].append(row.label)
    if not waiting:
        return []
    return _Estimate(study).costs(waiting)


class _Estimate:
    """The quantities of a study, counted once."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._config = study.config
        failed = failed_classes(study)
        expected = study.expected_classes()
        self._classes = [name for name in expected if name not in failed]
        self._train, self._test = _photos(study, expected)
        self._device = cost_model.device()
        self._base = cost_model.base_cost(study.base.folder)
        self._runs = {run_label(*run): run for run in study.runs(self._classes)}
        self._parameters: dict[tuple[str, str], Mapping[str, Any]] = {
            (node.stage, node.label): node.parameters
            for node in [
                *study.nodes(self._classes),
                *(node for name in expected if name in failed for node in study.class_nodes(name)),
            ]
        }

    def costs(self, waiting: Mapping[str, Sequence[str]]) -> list[Cost]:
        found = []
        for stage, labels in waiting.items():
            # A point of a grid is so many folds.
            alike = "training" if stage == "tuning" else stage
            made = [
                manifest
                for manifest in islice(self._study.store.manifests(alike), _LOOKED_AT)
                if "seconds" in manifest["measurements"]
            ]
            seconds = size_bytes = 0.0
            bases: Counter[str] = Counter()
            rates: dict[Any, tuple[float, float] | None] = {}
            for label in labels:
                work, modelled_s, modelled_bytes = self._modelled(stage, label)
                kind = _kind(self._parameters.get((stage, label), {}))
                if kind not in rates:
                    rates[kind] = self._measured(alike, kind, made)
                rate = rates[kind]
                bases["measured" if rate else "unknown" if modelled_s is None else "modelled"] += 1
                seconds += rate[0] * work if rate else modelled_s or 0.0
                size_bytes += rate[1] * work if rate and rate[1] else modelled_bytes
            found.append(Cost(stage, len(labels), seconds, size_bytes, bases.most_common(1)[0][0]))
        return found

    def _measured(
        self, stage: str, kind: Any, made: Sequence[Mapping[str, Any]]
    ) -> tuple[float, float] | None:
        """Seconds and bytes of a unit of work in earlier artifacts of this kind."""
        alike = [each for each in made if _kind(each["parameters"]) == kind]
        # What another network took says more about this machine than an assumed rate does.
        other = not alike and stage in ("training", "evaluation")
        done = [(each, self._done(stage, each)) for each in (made if other else alike)]
        total = sum(work for _, work in done)
        if not total:
            return None
        seconds = sum(each["measurements"]["seconds"] for each, _ in done)
        size_bytes = sum(file["bytes"] for each, _ in done for file in each["files"].values())
        # A network's weights weigh what they weigh, however long it learned.
        by_work = stage not in ("training", "dreambooth")
        return seconds / total, size_bytes / total if by_work else 0.0

    def _done(self, stage: str, manifest: Mapping[str, Any]) -> float:
        """The work in an artifact, in the units of `_modelled`; 0 where it cannot be told."""
        wanted, told = manifest["parameters"], manifest["measurements"]
        if stage in ("training", "evaluation"):
            settings = wanted["recognition"]
            forward = cost_model.network(wanted["backbone"], settings["size_px"])[0]
            if stage == "training":
                learned = told["images_per_s"] * told["seconds"]
                return learned * cost_model.STEP_PASSES * forward
            return told["test_images"] * settings["folds"] * _ASKED * forward
        if stage == "dreambooth":
            return self._learned_flop(DreamBoothConfig.model_construct(**wanted["dreambooth"]))
        if stage == "sampling":
            settings = SamplingConfig.model_construct(**wanted["sampling"])
            return self._drawn_flop(settings.images_per_class, settings)
        if stage in ("ranking", "memorisation"):
            return len(wanted["classes"]) * self._config.sampling.images_per_class
        name = {"cases": "photos", "landmarks": "images", "copies": "images", "scores": "runs"}
        return told.get(name.get(stage, ""), 0)

    def _modelled(self, stage: str, label: str) -> tuple[float, float | None, float]:
        """Work (FLOP, pictures or runs, by the stage), seconds and bytes of one artifact."""
        config, rate = self._config, self._device.flop_per_s
        images = config.sampling.images_per_class
        all_images = images * len(self._classes)
        photos, held_out = sum(self._train.values()), sum(self._test.values())
        png_bytes = _PNG_BYTES_PER_PX * self._base.side_px**2
        if stage == "cases":
            count = photos + held_out
            return count, count * _IMPORTED_S, count * png_bytes
        if stage in ("sampling", "class-images"):
            count = images if stage == "sampling" else config.dreambooth.class_images
            flop = self._drawn_flop(count, config.sampling)
            return flop, flop / rate + count * _MESH_S, count * png_bytes
        if stage == "dreambooth":
            flop = self._learned_flop(config.dreambooth)
            return flop, max(flop / rate, self._handed_over_s()), self._concept_bytes()
        if stage == "landmarks":
            class_id, _, whose = label.rpartition(" ")
            count = images if whose == "synthetic" else self._train.get(class_id, 1)
            return count, count * _MESH_S, count * _LANDMARKS_BYTES
        if stage == "tuning":
            backbone, _, regime = label.partition(" ")
            scale = None if regime == "real" else self._study.scales(self._classes)[0]
            flop, _, _ = self._recognised("training", backbone, regime, scale)
            flop *= config.recognition.folds * len(config.recognition.points())
            return flop, flop / rate, _TABLE_BYTES
        if stage in ("training", "evaluation"):
            run = label.rpartition(" fold ")[0] if stage == "training" else label
            return self._recognised(stage, *self._runs[run])
        if stage in ("ranking", "copies", "memorisation", "selection"):
            compared = stage in ("copies", "memorisation")
            return all_images, all_images * (_COMPARED_S if compared else 0.001), all_images * 1000
        if stage in ("scores", "report"):
            answers = len(self._runs) * config.recognition.folds * held_out
            size_bytes = 4.0 * answers * len(self._classes) if stage == "scores" else 2e6
            return len(self._runs), 2 + 0.5 * len(self._runs), size_bytes
        return 1, None, 0

    def _recognised(
        self, stage: str, backbone: str, regime: str, scale: int | None
    ) -> tuple[float, float, float]:
        settings = self._config.recognition
        forward, weights_bytes = cost_model.network(backbone, settings.size_px)
        if stage == "training":
            real = 0 if regime.startswith("synthetic") else sum(self._train.values())
            learned = (real + (scale or 0)) * (1 - 1 / settings.folds) * settings.epochs
            flop = learned * cost_model.STEP_PASSES * forward
            return flop, flop / self._device.flop_per_s, weights_bytes
        asked = sum(self._test.values()) * settings.folds
        flop = asked * _ASKED * forward
        return flop, flop / self._device.flop_per_s + 1, 4.0 * asked * len(self._classes)

    def _learned_flop(self, settings: DreamBoothConfig) -> float:
        pictures = settings.steps * settings.batch_size * settings.gradient_accumulation
        side_px = settings.resolution_px or self._base.side_px
        area = (side_px / self._base.side_px) ** 2
        passes = cost_model.STEP_PASSES * (2 if settings.prior_weight else 1)
        return pictures * passes * area * self._base.forward_flop

    def _handed_over_s(self) -> float:
        """Of a class's steps on a GPU that are not replayed."""
        settings = self._config.dreambooth
        lora = settings.method == "lora"
        if not self._device.gpu or (
            lora and not settings.lora_text_encoder and not settings.gradient_checkpointing
        ):
            return 0
        steps = settings.steps * settings.gradient_accumulation
        return steps * cost_model.KERNEL_BY_KERNEL_S / (settings.concepts_at_once if lora else 1)

    def _drawn_flop(self, count: int, settings: SamplingConfig) -> float:
        guided = settings.guided_share if settings.guidance_scale > 1 else 0
        passes = settings.steps * (1 + guided) + cost_model.DECODE_PASSES
        return count * passes * self._base.forward_flop

    def _concept_bytes(self) -> float:
        settings = self._config.dreambooth
        if settings.method == "full":
            # And the text encoder.
            return 1.15 * self._base.weights_bytes
        # Attention of SD 1.5: 0.8 MB for each rank, and as the width; all layers: some four times.
        wide = 4 if settings.lora_targets == "all" else 1
        return (self._base.weights / 860e6) ** 0.5 * 0.8e6 * settings.rank * wide


def _kind(parameters: Mapping[str, Any]) -> Any:
    """What must be equal for one artifact's time to tell another's: the network."""
    return parameters.get("backbone") or parameters.get("base")


def _photos(study: Study, classes: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Training and held-out photos of each class: counted, or as the split will about be."""
    settings = study.config.cases
    if study.graph.resolve(study.cases()).looked.status == "cached":
        found = [(case.class_id, case.split) for case in study.case_set.cases]
    elif settings.format == "registry":
        entries = registry_cases.chosen(settings, study.registry)
        found = [(entry.class_id, entry.split) for entry in entries]
    elif settings.format == "phantom":
        sizes = phantoms_of(study.config)
        train = {name: sizes.per_class[place] for place, name in enumerate(classes)}
        return train, dict.fromkeys(classes, sizes.test_per_class)
    else:
        names = class_ids({photo.class_name for photo in study.photos})
        total = Counter(names[photo.class_name] for photo in study.photos)
        held_out = {name: int(n * settings.test_fraction + 0.5) for name, n in total.items()}
        return {name: n - held_out[name] for name, n in total.items()}, held_out
    train = Counter(class_id for class_id, split in found if split == "train")
    return dict(train), dict(Counter(class_id for class_id, split in found if split == "test"))
