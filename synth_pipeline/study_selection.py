"""A study's images ranked, audited and selected, as nodes."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth_pipeline import cases, models, selection, synthetic_set
from synth_pipeline.config import Strategy
from synth_pipeline.graph import Input, Node
from synth_pipeline.progress import Progress
from synth_pipeline.store import Output, canonical_json
from synth_pipeline.study_cases import TORCH, once, without
from synth_pipeline.study_synthesis import SynthesisOfStudy

if TYPE_CHECKING:
    from synth_pipeline.appearance import Appearance


class SelectionOfStudy(SynthesisOfStudy):
    """What compares the classes' images, and chooses among them."""

    @once
    def ranking(self, classes: Sequence[str]) -> Node:
        """Prototypes of training photos, and how near each synthetic image lies to them."""
        settings = self.config.ranking

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import ranking

            appearance = None
            look = self._look(settings.backbone)
            if look:
                case_set = cases.load(inputs["cases"])
                appearance = {}
                for name in classes:
                    samples = synthetic_set.load(inputs[f"sampling/{name}"])
                    apart = ranking.appearance_distances(
                        look,
                        [case.path for case in case_set.train(name)],
                        [sample.path for sample in samples],
                    )
                    indices = (sample.index for sample in samples)
                    appearance[name] = dict(zip(indices, apart, strict=True))
            done = ranking.run(
                settings,
                real={name: inputs[f"real/{name}"] for name in classes},
                synthetic={name: inputs[f"synthetic/{name}"] for name in classes},
                out_dir=out_dir,
                appearance=appearance,
            )
            return Output(measurements=done)

        pictures = [*self._train_inputs(classes), *self._sampling_inputs(classes)]
        return self._node(
            "ranking",
            "",
            {
                "ranking": settings.key_slice(),
                "classes": list(classes),
                **self._looked_with(settings.backbone),
            },
            body,
            inputs=(*self._landmark_inputs(classes), *(pictures if settings.backbone else ())),
            libraries=("numpy", *((*TORCH, "timm") if settings.backbone else ())),
        )

    @once
    def copies(self, classes: Sequence[str]) -> Node:
        """The copy audit: synthetic images that lie too near a training photo."""
        settings = self.config.copies

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import copies

            case_set = cases.load(inputs["cases"])
            done = copies.run(
                settings,
                real={
                    name: [(c.case_id, c.subject_id, c.path) for c in case_set.train(name)]
                    for name in classes
                },
                synthetic={
                    name: [
                        (s.index, s.path) for s in synthetic_set.load(inputs[f"sampling/{name}"])
                    ]
                    for name in classes
                },
                real_landmarks={name: inputs[f"real/{name}"] for name in classes},
                synthetic_landmarks={name: inputs[f"synthetic/{name}"] for name in classes},
                landmark_model=self.landmark_model,
                out_dir=out_dir,
                look=self._look(settings.backbone),
                progress=progress,
            )
            return Output(measurements=done)

        return self._node(
            "copies",
            "",
            {
                "copies": settings.key_slice(),
                "model": models.FACE_LANDMARKER_SHA256,
                "classes": list(classes),
                **self._looked_with(settings.backbone),
            },
            body,
            inputs=(
                *self._train_inputs(classes),
                *self._sampling_inputs(classes),
                *self._landmark_inputs(classes),
            ),
            libraries=("numpy", "pillow", *((*TORCH, "timm") if settings.backbone else ())),
        )

    def scales(self, classes: Sequence[str]) -> list[int]:
        """How many synthetic images each scale trains on, ascending; of these classes."""
        generated = len(classes) * self.config.sampling.images_per_class
        return selection.resolve_scales(self.config.selection.scales, generated)

    @once
    def selection(self, classes: Sequence[str], strategy: Strategy | None = None) -> Node:
        """Which synthetic images are trained on, for every scale; by the study's own strategy."""
        strategy = strategy or self.config.selection.strategy
        settings = self.config.selection.model_copy(update={"strategy": strategy})
        scales = self.scales(classes)

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            sha256 = {
                (name, sample.index): sample.sha256
                for name in classes
                for sample in synthetic_set.load(inputs[f"sampling/{name}"])
            }
            done = selection.run(
                strategy,
                scales=scales,
                ranking_dir=inputs["ranking"],
                copies_dir=inputs["copies"],
                sha256=sha256,
                out_dir=out_dir,
            )
            parts = {
                f"scale/{scale}": hashlib.sha256(
                    canonical_json([[p.class_id, p.index, p.sha256] for p in picks])
                ).hexdigest()
                for scale, picks in selection.load(out_dir).items()
            }
            return Output(parts=parts, measurements=done)

        return self._node(
            "selection",
            strategy if strategy != self.config.selection.strategy else "",
            {"selection": without(settings.key_slice(), "compare"), "scales": scales},
            body,
            inputs=(
                Input("ranking", self.ranking(classes)),
                Input("copies", self.copies(classes)),
                *self._sampling_inputs(classes),
            ),
        )

    def _look(self, backbone: str | None) -> "Appearance | None":
        """What looks at pictures, where a network is asked for."""
        if backbone is None:
            return None
        from synth_pipeline.appearance import Appearance

        wanted = self.config.recognition
        return Appearance(backbone, wanted.pretrained, wanted.size_px)

    def _looked_with(self, backbone: str | None) -> dict[str, Any]:
        """What of a network decides its features."""
        if backbone is None:
            return {}
        from synth_pipeline import backbones

        wanted = self.config.recognition
        weights = backbones.weights_identity(backbone, wanted.pretrained)
        return {"weights": weights, "size_px": wanted.size_px}
