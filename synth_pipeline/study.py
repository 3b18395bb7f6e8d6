"""A study: which stages there are, for whom, and what each depends on.

The one place that knows both the stages and the store. From a notebook::

    from pathlib import Path

    from synth_pipeline.config import load_config
    from synth_pipeline.study import Study

    few = ["cases.phantom.classes=2", "cases.phantom.test_per_class=2"]
    study = Study(load_config(Path("configs/quickstart.yaml"), few), Path("results"))
    study.make(study.cases())
    landmarks, _ = study.make(study.landmarks_real(study.case_set.classes[0]))
    print(landmarks.path)

The stages' modules are imported when they run, because torch takes seconds to load and a study
that is cached, or only planned, needs none of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from synth_pipeline import cases, models, registry_cases, synthetic_set
from synth_pipeline.class_names import class_ids, shown
from synth_pipeline.graph import Input, Node
from synth_pipeline.progress import Progress
from synth_pipeline.store import Output
from synth_pipeline.study_cases import once
from synth_pipeline.study_recognition import RecognitionOfStudy, run_label


class Study(RecognitionOfStudy):
    """A whole study: its cases, its synthetic images, and its recognisers.

    Args:
        config: the study.
        root: folder that holds `store/` and `studies/<name>/`.
        model_dir: where the landmark model lies; the user's cache by default.
    """

    @once
    def scores(self, classes: Sequence[str]) -> Node:
        """Every accuracy with its interval, from the stored predictions."""

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            import pyarrow as pa
            import pyarrow.parquet as pq

            from synth_pipeline import scores

            tables = [folder / "predictions.parquet" for folder in inputs.values()]
            done = scores.run(tables, seed=self.config.seed, out_dir=out_dir)
            for name in ("predictions.parquet", "shifts.parquet"):
                each = [pq.read_table(folder / name) for folder in inputs.values()]
                pq.write_table(pa.concat_tables(each), out_dir / name)
            return Output(measurements=done)

        return self._node(
            "scores",
            "",
            {"seed": self.config.seed},
            body,
            inputs=tuple(
                Input(run_label(*run), self.evaluation(classes, *run)) for run in self.runs(classes)
            ),
            libraries=("numpy",),
        )

    @once
    def memorisation(self, classes: Sequence[str]) -> Node:
        """Whether synthetic images are nearer to training photos than to held-out ones."""

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import memorisation

            case_set = cases.load(inputs["cases"])
            done = memorisation.run(
                real={n: [(c.case_id, c.path) for c in case_set.train(n)] for n in classes},
                held_out={n: [c.path for c in case_set.test() if c.class_id == n] for n in classes},
                synthetic={
                    n: [(s.index, s.path) for s in synthetic_set.load(inputs[f"sampling/{n}"])]
                    for n in classes
                },
                real_landmarks={n: inputs[f"real/{n}"] for n in classes},
                synthetic_landmarks={n: inputs[f"synthetic/{n}"] for n in classes},
                landmark_model=self.landmark_model,
                seed=self.config.seed,
                out_dir=out_dir,
                progress=progress,
            )
            return Output(measurements=done)

        return self._node(
            "memorisation",
            "",
            {
                "model": models.FACE_LANDMARKER_SHA256,
                "classes": list(classes),
                "seed": self.config.seed,
            },
            body,
            inputs=(
                *self._train_inputs(classes),
                Input("test", self.cases(), "test"),
                *self._sampling_inputs(classes),
                *self._landmark_inputs(classes),
            ),
            libraries=("mediapipe", "numpy", "pillow"),
        )

    def nodes(self, classes: Sequence[str]) -> Iterator[Node]:
        """Every node of the study in the order in which it runs."""
        yield self.cases()
        if self.config.dreambooth.prior_weight:
            yield self.class_images()
        for class_id in classes:
            yield from self.class_nodes(class_id)
        yield from (self.ranking(classes), self.copies(classes))
        for strategy in self.strategies():
            yield self.selection(classes, strategy)
        for backbone in self.config.recognition.backbones:
            yield from self.backbone_nodes(classes, backbone)
        yield self.scores(classes)
        yield self.memorisation(classes)

    def expected_classes(self) -> list[str]:
        """The classes of the case set or, before it is made, of the source."""
        if self.is_made(self.cases()):
            return list(self.case_set.classes)
        if self.config.cases.format == "registry":
            return registry_cases.trainable(self.config.cases, self.registry)
        return sorted(class_ids(self._source_names()).values())

    def expected_names(self) -> list[str]:
        """What prompts call these classes, sorted."""
        if self.is_made(self.cases()):
            names = {self.case_set.class_name(class_id) for class_id in self.case_set.classes}
        elif self.config.cases.format == "registry":
            found = registry_cases.chosen(self.config.cases, self.registry)
            names = {entry.class_name for entry in found}
        else:
            names = {shown(name) for name in self._source_names()}
        return sorted(names)

    def _source_names(self) -> set[str]:
        """Class names as phantoms or the folder of photos have them."""
        if self.config.cases.format == "phantom":
            from synth_pipeline.phantom.dataset import class_names

            return set(class_names(len(self.phantoms.per_class), self.phantoms.seed))
        return {photo.class_name for photo in self.photos}
