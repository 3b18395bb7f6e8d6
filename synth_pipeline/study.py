"""A study: which stages there are, for whom, and what each hangs on.

The one place that knows both the stages and the store. From a notebook::

    study = Study(load_config(Path("configs/quickstart.yaml")), Path("results"))
    study.make(study.cases())
    study.make(study.landmarks_real("noonan"))

The stages' modules are imported when they run, because torch takes seconds to load and a study
that is cached, or only planned, needs none of it.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

from synth_pipeline import base_model, cases, models, selection
from synth_pipeline.base_model import BaseModel
from synth_pipeline.cases import CaseSet
from synth_pipeline.config import Regime, StudyConfig
from synth_pipeline.graph import Graph, Input, Node, PlanRow
from synth_pipeline.progress import Progress, silent
from synth_pipeline.stage_versions import STAGE_VERSIONS
from synth_pipeline.store import Artifact, Output, Store, canonical_json

_TORCH = ("torch", "numpy", "pillow")


def _once(build: Callable[..., Node]) -> Callable[..., Node]:
    """Build each node once: a fold hangs on every class, and there are hundreds of both."""

    @wraps(build)
    def cached(self: "Study", *who: Any) -> Node:
        place = (build.__name__, *(tuple(x) if isinstance(x, list) else x for x in who))
        if place not in self._nodes:
            self._nodes[place] = build(self, *who)
        return self._nodes[place]

    return cached


class Study:
    """One configuration under one root folder.

    Args:
        config: the study.
        root: folder that holds `store/` and `studies/<name>/`.
        model_dir: where the landmark model lies; the user's cache by default.
    """

    def __init__(self, config: StudyConfig, root: Path, model_dir: Path | None = None) -> None:
        self.config = config
        self.root = root
        self.folder = root / "studies" / config.name
        self.store = Store(root / "store")
        self.graph = Graph(self.store)
        self._model_dir = model_dir
        self._nodes: dict[tuple[Any, ...], Node] = {}
        self._executed: list[bool] = []

    def make(self, node: Node, progress: Progress = silent) -> tuple[Artifact, bool]:
        """Return the node's artifact, and whether its stage was run to get it."""
        artifact, executed = self.graph.make(node, progress)
        self._executed.append(executed)
        return artifact, executed

    def counts(self) -> dict[str, int]:
        """How many nodes `make` has run so far, and how many it found cached."""
        executed = sum(self._executed)
        return {"executed": executed, "cached": len(self._executed) - executed}

    @cached_property
    def base(self) -> BaseModel:
        """The base model, found once."""
        settings = self.config.dreambooth
        return base_model.resolve_base(
            settings.base_model, revision=settings.revision, base_vae=settings.base_vae
        )

    @cached_property
    def landmark_model(self) -> Path:
        """The landmark model's file, its SHA-256 checked once."""
        return models.face_landmarker_path(self._model_dir)

    @cached_property
    def photos(self) -> list[cases.SourcePhoto]:
        """What lies in the source folder; empty where the cases are phantoms."""
        if self.config.cases.format == "phantom":
            return []
        return cases.scan(self.config.cases)

    @property
    def case_set(self) -> CaseSet:
        """The imported cases, which must have been made."""
        return cases.load(self.graph.artifact(self.cases()).path)

    @_once
    def cases(self) -> Node:
        """Photos imported, sanitised and split."""
        settings, seed = self.config.cases, self.config.seed
        parameters: dict[str, Any] = {"seed": seed, "cases": settings.key_slice()}
        # The place of the photos is nobody's business; their content is what counts.
        del parameters["cases"]["source"]
        if settings.format == "phantom":
            parameters["landmark_model"] = models.FACE_LANDMARKER_SHA256
        else:
            parameters["source"] = cases.source_digest(self.photos)
            del parameters["cases"]["phantom"]

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            if settings.format == "phantom":
                done = self._render_phantoms(out_dir, progress)
            else:
                photos = self.photos
                done = cases.run(
                    settings, photos=photos, seed=seed, out_dir=out_dir, progress=progress
                )
            return Output(parts=cases.parts(out_dir), measurements=done)

        return self._node("cases", "", parameters, body, libraries=("numpy", "pillow"))

    def _render_phantoms(self, out_dir: Path, progress: Progress) -> dict[str, float]:
        from synth_pipeline.phantom.dataset import make_dataset

        wanted = self.config.cases.phantom
        with tempfile.TemporaryDirectory() as scratch:
            rendered = Path(scratch) / "phantoms"
            make_dataset(
                rendered,
                classes=wanted.classes,
                per_class=wanted.per_class,
                test_per_class=wanted.test_per_class,
                size_px=wanted.size_px,
                seed=self.config.seed,
                mesh_path=self.landmark_model,
                progress=progress,
            )
            source = self.config.cases.model_copy(update={"source": str(rendered), "format": "csv"})
            photos = cases.scan(source)
            return cases.run(source, photos=photos, seed=self.config.seed, out_dir=out_dir)

    @_once
    def landmarks_real(self, class_id: str) -> Node:
        """Landmarks of a class's real training photos."""

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import landmarks

            photos = cases.load(inputs["cases"]).train(class_id)
            images = [(case.case_id, case.path) for case in photos]
            return self._landmarks(landmarks, images, class_id, True, out_dir, progress)

        return self._node(
            "landmarks",
            f"{class_id} real",
            {"model": models.FACE_LANDMARKER_SHA256, "class_id": class_id},
            body,
            inputs=(Input("cases", self.cases(), f"train/{class_id}"),),
            libraries=("mediapipe", "pillow"),
        )

    @_once
    def landmarks_synthetic(self, class_id: str) -> Node:
        """Landmarks of a class's synthetic images."""

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import landmarks, sampling

            samples = sampling.load(inputs["sampling"])
            images = [(f"{sample.index:05d}", sample.path) for sample in samples]
            return self._landmarks(landmarks, images, class_id, False, out_dir, progress)

        return self._node(
            "landmarks",
            f"{class_id} synthetic",
            {"model": models.FACE_LANDMARKER_SHA256, "class_id": class_id},
            body,
            inputs=(Input("sampling", self.sampling(class_id)),),
            libraries=("mediapipe", "pillow"),
        )

    def _landmarks(
        self,
        landmarks: Any,
        images: Sequence[tuple[str, Path]],
        class_id: str,
        require_face: bool,
        out_dir: Path,
        progress: Progress,
    ) -> Output:
        done = landmarks.run(
            images,
            model=self.landmark_model,
            out_dir=out_dir,
            class_id=class_id,
            require_face=require_face,
            progress=progress,
        )
        return Output(measurements=done)

    @_once
    def dreambooth(self, class_id: str) -> Node:
        """The concept of a class: the base model fine-tuned on its training photos."""
        settings, seed = self.config.dreambooth, self.config.seed

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import dreambooth

            case_set = cases.load(inputs["cases"])
            done = dreambooth.run(
                settings,
                class_id=class_id,
                class_name=case_set.class_name(class_id),
                images=[case.path for case in case_set.train(class_id)],
                base=self.base,
                seed=seed,
                out_dir=out_dir,
                progress=progress,
            )
            return Output(measurements=done)

        parameters = {
            "dreambooth": _without(settings.key_slice(), "base_model", "base_vae", "revision"),
            "base": self.base.identity,
            "class_id": class_id,
            "seed": seed,
        }
        return self._node(
            "dreambooth",
            class_id,
            parameters,
            body,
            inputs=(Input("cases", self.cases(), f"train/{class_id}"),),
            libraries=(*_TORCH, "diffusers", "peft", "transformers"),
        )

    @_once
    def sampling(self, class_id: str) -> Node:
        """The synthetic images of a class."""
        settings, seed = self.config.sampling, self.config.seed
        prompt = self.config.dreambooth.instance_prompt

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import sampling

            class_name = cases.load(inputs["cases"]).class_name(class_id)
            done = sampling.run(
                settings,
                class_id=class_id,
                class_name=class_name,
                prompt=prompt.format(class_name=class_name),
                concept_dir=inputs["dreambooth"],
                base=self.base,
                seed=seed,
                out_dir=out_dir,
                progress=progress,
            )
            return Output(measurements=done)

        parameters = {
            "sampling": settings.key_slice(),
            "prompt": prompt,
            "base": self.base.identity,
            "class_id": class_id,
            "seed": seed,
        }
        return self._node(
            "sampling",
            class_id,
            parameters,
            body,
            inputs=(
                Input("dreambooth", self.dreambooth(class_id)),
                # Only the class's name is read, which the concept's card already decides.
                Input("cases", self.cases(), keyed=False),
            ),
            libraries=(*_TORCH, "diffusers", "peft", "transformers"),
        )

    @_once
    def ranking(self, classes: Sequence[str]) -> Node:
        """Prototypes of training photos, and how near each synthetic image lies to them."""
        settings = self.config.ranking

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import ranking

            done = ranking.run(
                settings,
                real={name: inputs[f"real/{name}"] for name in classes},
                synthetic={name: inputs[f"synthetic/{name}"] for name in classes},
                out_dir=out_dir,
            )
            return Output(measurements=done)

        return self._node(
            "ranking",
            "",
            {"ranking": settings.key_slice(), "classes": list(classes)},
            body,
            inputs=(
                *(Input(f"real/{name}", self.landmarks_real(name)) for name in classes),
                *(Input(f"synthetic/{name}", self.landmarks_synthetic(name)) for name in classes),
            ),
            libraries=("numpy",),
        )

    @_once
    def copies(self, classes: Sequence[str]) -> Node:
        """The copy audit: synthetic images that lie too near a training photo."""
        settings = self.config.copies

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import copies, sampling

            case_set = cases.load(inputs["cases"])
            done = copies.run(
                settings,
                real={
                    name: [(c.case_id, c.subject_id, c.path) for c in case_set.train(name)]
                    for name in classes
                },
                synthetic={
                    name: [(s.index, s.path) for s in sampling.load(inputs[f"sampling/{name}"])]
                    for name in classes
                },
                out_dir=out_dir,
                progress=progress,
            )
            return Output(measurements=done)

        return self._node(
            "copies",
            "",
            {"copies": settings.key_slice(), "classes": list(classes)},
            body,
            inputs=(*self._train_inputs(classes), *self._sampling_inputs(classes)),
            libraries=("numpy", "pillow"),
        )

    def scales(self, classes: Sequence[str]) -> list[int]:
        """How many synthetic images each scale trains on, ascending.

        Raises:
            InputError: a scale asks for more images than are generated.
        """
        generated = len(classes) * self.config.sampling.images_per_class
        return selection.resolve_scales(self.config.selection.scales, generated)

    @_once
    def selection(self, classes: Sequence[str]) -> Node:
        """Which synthetic images are trained on, for every scale."""
        settings = self.config.selection

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import sampling

            sha256 = {
                (name, sample.index): sample.sha256
                for name in classes
                for sample in sampling.load(inputs[f"sampling/{name}"])
            }
            done = selection.run(
                settings,
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
            "",
            {"selection": settings.key_slice(), "scales": self.scales(classes)},
            body,
            inputs=(
                Input("ranking", self.ranking(classes)),
                Input("copies", self.copies(classes)),
                *self._sampling_inputs(classes),
            ),
        )

    def runs(self, classes: Sequence[str]) -> list[tuple[str, Regime, int | None]]:
        """Every backbone with every regime, and every scale where the regime has scales."""
        wanted = self.config.recognition
        found: list[tuple[str, Regime, int | None]] = []
        for backbone in wanted.backbones:
            for regime in wanted.regimes:
                scales = [None] if regime == "real" else self.scales(classes)
                found += [(backbone, regime, scale) for scale in scales]
        return found

    @_once
    def training(
        self, classes: Sequence[str], backbone: str, regime: Regime, scale: int | None, fold: int
    ) -> Node:
        """One fold of one recogniser."""
        settings, seed = self.config.recognition, self.config.seed

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import training

            done = training.run(
                settings,
                backbone=backbone,
                classes=classes,
                examples=self._examples(inputs, classes, regime, scale),
                fold=fold,
                seed=seed,
                out_dir=out_dir,
                progress=progress,
            )
            return Output(measurements=done)

        inputs: list[Input] = []
        if regime != "synthetic":
            inputs += self._train_inputs(classes)
        if regime != "real":
            inputs.append(Input("selection", self.selection(classes), f"scale/{scale}"))
            # The selection names each image by its SHA-256, so the key holds them already.
            inputs += [
                Input(item.name, item.node, keyed=False) for item in self._sampling_inputs(classes)
            ]
        return self._node(
            "training",
            f"{_run_label(backbone, regime, scale)} fold {fold + 1}",
            {**self._recognition(classes, backbone, regime), "fold": fold, "seed": seed},
            body,
            inputs=tuple(inputs),
            libraries=(*_TORCH, "timm"),
        )

    @_once
    def evaluation(
        self, classes: Sequence[str], backbone: str, regime: Regime, scale: int | None
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
            )
            return Output(measurements=done)

        folds = (
            Input(f"fold/{fold}", self.training(classes, backbone, regime, scale, fold))
            for fold in range(settings.folds)
        )
        return self._node(
            "evaluation",
            _run_label(backbone, regime, scale),
            self._recognition(classes, backbone, regime),
            body,
            inputs=(Input("cases", self.cases(), "test"), *folds),
            libraries=(*_TORCH, "timm"),
        )

    @_once
    def scores(self, classes: Sequence[str]) -> Node:
        """Every accuracy with its interval, from the stored predictions."""

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            import pyarrow as pa
            import pyarrow.parquet as pq

            from synth_pipeline import scores

            tables = [folder / "predictions.parquet" for folder in inputs.values()]
            done = scores.run(tables, seed=self.config.seed, out_dir=out_dir)
            everything = pa.concat_tables([pq.read_table(path) for path in tables])
            pq.write_table(everything, out_dir / "predictions.parquet")
            return Output(measurements=done)

        return self._node(
            "scores",
            "",
            {"seed": self.config.seed},
            body,
            inputs=tuple(
                Input(_run_label(*run), self.evaluation(classes, *run))
                for run in self.runs(classes)
            ),
            libraries=("numpy",),
        )

    def class_nodes(self, class_id: str) -> list[Node]:
        """What is made for one class, in order: the cheap check for faces comes first."""
        return [
            self.landmarks_real(class_id),
            self.dreambooth(class_id),
            self.sampling(class_id),
            self.landmarks_synthetic(class_id),
        ]

    def nodes(self, classes: Sequence[str]) -> Iterator[Node]:
        """Every node of the study in the order in which it runs."""
        yield self.cases()
        for class_id in classes:
            yield from self.class_nodes(class_id)
        yield from (self.ranking(classes), self.copies(classes), self.selection(classes))
        for run in self.runs(classes):
            for fold in range(self.config.recognition.folds):
                yield self.training(classes, *run, fold)
            yield self.evaluation(classes, *run)
        yield self.scores(classes)

    def plan(self) -> list[PlanRow]:
        """What is cached, what would run, and why; writes nothing."""
        return self.graph.plan(self.nodes(self.expected_classes()))

    def expected_classes(self) -> list[str]:
        """The classes of the case set or, before it is made, of the source."""
        if self.graph.resolve(self.cases()).looked.status == "cached":
            return list(self.case_set.classes)
        if self.config.cases.format == "phantom":
            from synth_pipeline.phantom.dataset import class_names

            names = class_names(self.config.cases.phantom.classes, self.config.seed)
            return sorted(cases.class_ids(names).values())
        return sorted(cases.class_ids({photo.class_name for photo in self.photos}).values())

    def _recognition(self, classes: Sequence[str], backbone: str, regime: Regime) -> dict[str, Any]:
        from synth_pipeline import backbones

        settings = self.config.recognition
        return {
            "recognition": _without(settings.key_slice(), "backbones", "regimes", "pretrained"),
            "backbone": backbone,
            "weights": backbones.weights_identity(backbone, settings.pretrained),
            "regime": regime,
            "classes": list(classes),
        }

    def _train_inputs(self, classes: Sequence[str]) -> list[Input]:
        # All the edges lead to one folder, which the body knows as "cases".
        node = self.cases()
        edges = [Input(f"train/{name}", node, f"train/{name}") for name in classes]
        return [Input("cases", node, keyed=False), *edges]

    def _sampling_inputs(self, classes: Sequence[str]) -> list[Input]:
        return [Input(f"sampling/{name}", self.sampling(name)) for name in classes]

    def _examples(
        self,
        inputs: Mapping[str, Path],
        classes: Sequence[str],
        regime: Regime,
        scale: int | None,
    ) -> list[Any]:
        from synth_pipeline import sampling
        from synth_pipeline.recognition_data import Example

        found = []
        if regime != "synthetic":
            case_set = cases.load(inputs["cases"])
            found += [
                Example(case.path, name, case.subject_id, False)
                for name in classes
                for case in case_set.train(name)
            ]
        if regime != "real":
            assert scale is not None
            paths = {
                (name, sample.index): sample.path
                for name in classes
                for sample in sampling.load(inputs[f"sampling/{name}"])
            }
            found += [
                Example(
                    paths[pick.class_id, pick.index],
                    pick.class_id,
                    f"{pick.class_id}/{pick.index}",
                    True,
                )
                for pick in selection.load(inputs["selection"])[scale]
            ]
        return found

    def _node(
        self,
        stage: str,
        label: str,
        parameters: Mapping[str, Any],
        body: Any,
        inputs: tuple[Input, ...] = (),
        libraries: tuple[str, ...] = (),
    ) -> Node:
        return Node(stage, label, STAGE_VERSIONS[stage], parameters, body, inputs, libraries)


def _without(section: dict[str, Any], *names: str) -> dict[str, Any]:
    """A section without the values that another parameter says better."""
    return {name: value for name, value in section.items() if name not in names}


def _run_label(backbone: str, regime: str, scale: int | None) -> str:
    return f"{backbone} {regime}" if scale is None else f"{backbone} {regime} {scale}"
