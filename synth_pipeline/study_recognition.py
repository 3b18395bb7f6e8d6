"""A study's recognisers: hyper-parameters, folds and answers, as nodes."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from synth_pipeline import cases, selection, synthetic_set
from synth_pipeline.config import Strategy
from synth_pipeline.graph import WORK, Input, Node
from synth_pipeline.progress import Progress
from synth_pipeline.store import Output, file_sha256
from synth_pipeline.study_cases import TORCH, once, without
from synth_pipeline.study_selection import SelectionOfStudy

if TYPE_CHECKING:
    from synth_pipeline.picture_store import PictureStore

#: Between a regime and the strategy that selected its images, where that is not the study's own.
_BY = " by "


class RecognitionOfStudy(SelectionOfStudy):
    """What learns from the images, and answers about the held-out photos."""

    @cached_property
    def pictures(self) -> "PictureStore":
        """Decoded pictures, for all runs and folds."""
        from synth_pipeline.picture_store import PictureStore

        return PictureStore(self.store.root / ".pictures")

    def strategies(self) -> list[Strategy]:
        """The study's own way to select images, and those it is compared with."""
        settings = self.config.selection
        return list(dict.fromkeys((settings.strategy, *settings.compare)))

    def runs(self, classes: Sequence[str]) -> list[tuple[str, str, int | None]]:
        """Every backbone with every regime, and every scale where the regime has scales.

        A strategy that is only compared makes a regime of its own, such as
        "synthetic by top-overall".
        """
        wanted = self.config.recognition
        regimes: list[str] = list(wanted.regimes)
        if "synthetic" in regimes:
            others = [f"synthetic{_BY}{strategy}" for strategy in self.strategies()[1:]]
            regimes += others
        found: list[tuple[str, str, int | None]] = []
        for backbone in wanted.backbones:
            for regime in regimes:
                scales = [None] if regime == "real" else self.scales(classes)
                found += [(backbone, regime, scale) for scale in scales]
        return found

    @once
    def tuning(self, classes: Sequence[str], backbone: str, regime: str) -> Node:
        """Hyper-parameters chosen on a recogniser's training images.

        At the smallest scale, once for all: a curve over scales is one of the same settings.
        """
        settings, seed = self.config.recognition, self.config.seed
        scale = None if regime == "real" else self.scales(classes)[0]

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import tuning

            done = tuning.run(
                settings,
                backbone=backbone,
                classes=classes,
                examples=self._examples(inputs, classes, regime, scale),
                seed=seed,
                out_dir=out_dir,
                pictures=self.pictures,
                work_dir=inputs[WORK],
                progress=progress,
            )
            return Output({"chosen": file_sha256(out_dir / tuning.CHOSEN)}, done)

        return self._node(
            "tuning",
            f"{backbone} {regime}",
            {**self._recognition(classes, backbone, regime), "seed": seed},
            body,
            inputs=self._images(classes, regime, scale),
            libraries=(*TORCH, "timm"),
            resumable=True,
        )

    @once
    def training(
        self, classes: Sequence[str], backbone: str, regime: str, scale: int | None, fold: int
    ) -> Node:
        """One fold of one recogniser.

        Where fewer images passed than a scale asks for, it holds what a smaller one does, and is
        one training with it: trained anew elsewhere, the same images differ by rounding, which a
        curve over scales would show as a gain or a loss.
        """
        settings, seed = self.config.recognition, self.config.seed

        def label(of_scale: int | None) -> str:
            return f"{run_label(backbone, regime, of_scale)} fold {fold + 1}"

        def key_label(parts: Mapping[str, Mapping[str, str]]) -> str:
            return label(scale if scale is None else _smallest_alike(parts["selection"], scale))

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import training

            chosen = inputs.get("tuning")
            updates = json.loads((chosen / "chosen.json").read_bytes()) if chosen else {}
            done = training.run(
                settings.model_copy(update=updates),
                backbone=backbone,
                classes=classes,
                examples=self._examples(inputs, classes, regime, scale),
                fold=fold,
                seed=seed,
                out_dir=out_dir,
                pictures=self.pictures,
                work_dir=inputs[WORK],
                progress=progress,
            )
            return Output(measurements=done)

        inputs = list(self._images(classes, regime, scale))
        if self.config.recognition.tunes:
            inputs.append(Input("tuning", self.tuning(classes, backbone, regime), "chosen"))
        return self._node(
            "training",
            label(scale),
            {**self._recognition(classes, backbone, regime), "fold": fold, "seed": seed},
            body,
            inputs=tuple(inputs),
            libraries=(*TORCH, "timm"),
            resumable=True,
            key_label=key_label,
        )

    @once
    def evaluation(
        self, classes: Sequence[str], backbone: str, regime: str, scale: int | None
    ) -> Node:
        """The folds of one recogniser, asked about the held-out real photos."""
        settings = self.config.recognition

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import evaluation

            test = [case for case in cases.load(inputs["cases"]).test() if case.class_id in classes]
            done = evaluation.run(
                settings,
                backbone=backbone,
                regime=regime,
                scale=scale,
                classes=classes,
                fold_dirs=[inputs[f"fold/{fold}"] for fold in range(settings.folds)],
                test=[(case.case_id, case.class_id, case.path) for case in test],
                out_dir=out_dir,
                pictures=self.pictures,
            )
            return Output(measurements=done)

        folds = (
            Input(f"fold/{fold}", self.training(classes, backbone, regime, scale, fold))
            for fold in range(settings.folds)
        )
        return self._node(
            "evaluation",
            run_label(backbone, regime, scale),
            self._recognition(classes, backbone, regime),
            body,
            inputs=(Input("cases", self.cases(), "test"), *folds),
            libraries=(*TORCH, "timm"),
        )

    def backbone_nodes(self, classes: Sequence[str], backbone: str) -> list[Node]:
        """What is made for one backbone, in order."""
        settings = self.config.recognition
        found: dict[str, Node] = {}
        for run in self.runs(classes):
            if run[0] != backbone:
                continue
            if settings.tunes:
                # The same for all scales.
                tuning = self.tuning(classes, *run[:2])
                found[tuning.name] = tuning
            folds = [self.training(classes, *run, fold) for fold in range(settings.folds)]
            found |= {node.name: node for node in (*folds, self.evaluation(classes, *run))}
        return list(found.values())

    def _images(self, classes: Sequence[str], regime: str, scale: int | None) -> tuple[Input, ...]:
        """What a recogniser learns from."""
        inputs: list[Input] = []
        if not regime.startswith("synthetic"):
            inputs += self._train_inputs(classes)
        if regime != "real":
            chosen = self.selection(classes, _strategy(regime))
            inputs.append(Input("selection", chosen, f"scale/{scale}"))
            # The selection names each image by its SHA-256, so the key holds them already.
            inputs += [
                Input(item.name, item.node, keyed=False) for item in self._sampling_inputs(classes)
            ]
        return tuple(inputs)

    def _recognition(self, classes: Sequence[str], backbone: str, regime: str) -> dict[str, Any]:
        from synth_pipeline import backbones

        settings = self.config.recognition
        return {
            "recognition": without(settings.key_slice(), "backbones", "regimes", "pretrained"),
            "backbone": backbone,
            "weights": backbones.weights_identity(backbone, settings.pretrained),
            "regime": regime,
            "classes": list(classes),
        }

    def _examples(
        self,
        inputs: Mapping[str, Path],
        classes: Sequence[str],
        regime: str,
        scale: int | None,
    ) -> list[Any]:
        from synth_pipeline.recognition_data import Example

        found = []
        if not regime.startswith("synthetic"):
            case_set = cases.load(inputs["cases"])
            found += [
                Example(case.path, name, case.subject_id, False, case.sha256)
                for name in classes
                for case in case_set.train(name)
            ]
        if regime != "real":
            assert scale is not None
            paths = {
                (name, sample.index): sample.path
                for name in classes
                for sample in synthetic_set.load(inputs[f"sampling/{name}"])
            }
            found += [
                Example(
                    paths[pick.class_id, pick.index],
                    pick.class_id,
                    f"{pick.class_id}/{pick.index}",
                    True,
                    pick.sha256,
                )
                for pick in selection.load(inputs["selection"])[scale]
            ]
        return found


def _smallest_alike(parts: Mapping[str, str], scale: int) -> int:
    """The smallest scale with the images of this one."""
    wanted = parts[f"scale/{scale}"]
    return min(int(name.partition("/")[2]) for name, digest in parts.items() if digest == wanted)


def _strategy(regime: str) -> Strategy | None:
    """The strategy that a regime is named by; none for the study's own."""
    return cast(Strategy, regime.partition(_BY)[2]) or None


def run_label(backbone: str, regime: str, scale: int | None) -> str:
    """What people are shown for one recogniser, such as "resnet18 synthetic 48"."""
    return f"{backbone} {regime}" if scale is None else f"{backbone} {regime} {scale}"
