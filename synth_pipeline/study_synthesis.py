"""A study from photos to synthetic images, as nodes."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from synth_pipeline import cases, models, synthetic_set
from synth_pipeline.content_credentials import Signer
from synth_pipeline.errors import SynthPipelineError
from synth_pipeline.faces_in_photos import FacesInPhotos
from synth_pipeline.graph import WORK, Input, Node
from synth_pipeline.progress import Progress, silent
from synth_pipeline.store import Output, file_sha256
from synth_pipeline.study_cases import TORCH, CasesOfStudy, once, without

#: Whose versions decide what a diffusion model learns or draws.
DIFFUSION = (*TORCH, "diffusers", "transformers")


class SynthesisOfStudy(CasesOfStudy):
    """Everything that is made for one class."""

    @cached_property
    def signer(self) -> Signer | None:
        """What signs the synthetic images; none where no certificate is given."""
        settings = self.config.sampling
        if settings.c2pa_certificate is None or settings.c2pa_key is None:
            return None
        return Signer(Path(settings.c2pa_certificate), Path(settings.c2pa_key))

    @once
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

    @once
    def landmarks_synthetic(self, class_id: str) -> Node:
        """Landmarks of a class's synthetic images."""

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import landmarks

            samples = synthetic_set.load(inputs["sampling"])
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

    def faces_in_photos(self, class_id: str) -> FacesInPhotos:
        """What the search for faces found in a class's training photos, which must be done."""
        return FacesInPhotos.measured(self.graph.measurements(self.landmarks_real(class_id)))

    def photo_sentences(self, classes: Sequence[str]) -> dict[str, str]:
        """By class what is unusual about the faces in its training photos, and what follows.

        Args:
            classes: whose landmarks must be made.

        Returns:
            Nothing of a class whose photos each show one face at first sight.
        """
        morphs = self.config.dreambooth.morphs
        told = {name: self.faces_in_photos(name).sentence(morphs) for name in classes}
        return {name: sentence for name, sentence in told.items() if sentence}

    def _landmarks(
        self,
        landmarks: Any,
        images: Sequence[tuple[str, Path]],
        class_id: str,
        real_photos: bool,
        out_dir: Path,
        progress: Progress,
    ) -> Output:
        done = landmarks.run(
            images,
            model=self.landmark_model,
            out_dir=out_dir,
            class_id=class_id,
            real_photos=real_photos,
            progress=progress,
        )
        return Output(measurements=done)

    @once
    def class_images(self) -> Node:
        """What the base makes of the class prompt: for prior preservation, for all classes."""
        settings, drawing = self.config.dreambooth, self.config.sampling

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            from synth_pipeline import sampling

            done = sampling.run_class_images(
                settings,
                drawing,
                base=self.base,
                seed=self.config.seed,
                out_dir=out_dir,
                progress=progress,
            )
            return Output(measurements=done)

        parameters = {
            "prompt": settings.class_prompt,
            "images": settings.class_images,
            "sampling": without(drawing.key_slice(), "images_per_class", "vary", "oversample"),
            "precision": settings.precision,
            "base": self.base.identity,
            "seed": self.config.seed,
        }
        return self._node("class-images", "", parameters, body, libraries=DIFFUSION)

    @once
    def dreambooth(self, class_id: str) -> Node:
        """The concept of a class: the base model fine-tuned on its training photos."""
        settings, seed = self.config.dreambooth, self.config.seed

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            made = self._learn([(class_id, inputs, out_dir)], progress)[0]
            if isinstance(made, SynthPipelineError):
                raise made
            return made

        parameters = {
            "dreambooth": without(settings.key_slice(), "base_model", "base_vae", "revision"),
            "base": self.base.identity,
            "class_id": class_id,
            "seed": seed,
        }
        return self._node(
            "dreambooth",
            class_id,
            parameters,
            body,
            inputs=(
                Input("cases", self.cases(), f"train/{class_id}"),
                *([Input("landmarks", self.landmarks_real(class_id))] if settings.morphs else []),
                *([Input("class-images", self.class_images())] if settings.prior_weight else []),
            ),
            libraries=DIFFUSION,
            resumable=True,
        )

    def make_concepts(
        self, class_ids: Sequence[str], progress: Progress = silent
    ) -> dict[str, SynthPipelineError]:
        """Make the concepts of several classes in one batch; returns the errors of those that fail.

        Args:
            class_ids: those whose concept is there are left out.
            progress: told after each step.
        """
        made = self._make_together(
            [self.dreambooth(class_id) for class_id in class_ids],
            lambda runs: self._learn([(run[0].label, run[1], run[2]) for run in runs], progress),
        )
        return {
            class_id: outcome
            for class_id, outcome in zip(class_ids, made, strict=True)
            if isinstance(outcome, SynthPipelineError)
        }

    def _learn(
        self, runs: Sequence[tuple[str, Mapping[str, Path], Path]], progress: Progress
    ) -> list[Output | SynthPipelineError]:
        """Fine-tune classes together: of each its id, its inputs and its folder."""
        from synth_pipeline import dreambooth, landmarks

        concepts = []
        for class_id, inputs, out_dir in runs:
            case_set = cases.load(inputs["cases"])
            photos = case_set.train(class_id)
            points_px = None
            if self.config.dreambooth.morphs:
                ids = [photo.case_id for photo in photos]
                points_px = landmarks.points_of(inputs["landmarks"], ids)
            concepts.append(
                dreambooth.Concept(
                    class_id=class_id,
                    class_name=case_set.class_name(class_id),
                    images=[photo.path for photo in photos],
                    out_dir=out_dir,
                    work_dir=inputs[WORK],
                    points_px=points_px,
                )
            )
        done = dreambooth.run_together(
            self.config.dreambooth,
            concepts,
            base=self.base,
            seed=self.config.seed,
            class_images=runs[0][1].get("class-images"),
            progress=progress,
        )
        outcomes = (done[class_id] for class_id, _, _ in runs)
        return [
            o if isinstance(o, SynthPipelineError) else Output(measurements=o) for o in outcomes
        ]

    @once
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
                landmark_model=self.landmark_model,
                signer=self.signer,
                progress=progress,
            )
            return Output(measurements=done)

        certificate = settings.c2pa_certificate
        parameters = {
            "sampling": settings.key_slice(),
            "certificate": file_sha256(Path(certificate)) if certificate else None,
            "prompt": prompt,
            "precision": self.config.dreambooth.precision,
            "landmark_model": models.FACE_LANDMARKER_SHA256,
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
            libraries=DIFFUSION,
        )

    def class_nodes(self, class_id: str) -> list[Node]:
        """What is made for one class, in order: the cheap check for faces comes first."""
        return [
            self.landmarks_real(class_id),
            self.dreambooth(class_id),
            self.sampling(class_id),
            self.landmarks_synthetic(class_id),
        ]

    def _landmark_inputs(self, classes: Sequence[str]) -> list[Input]:
        return [
            *(Input(f"real/{name}", self.landmarks_real(name)) for name in classes),
            *(Input(f"synthetic/{name}", self.landmarks_synthetic(name)) for name in classes),
        ]

    def _sampling_inputs(self, classes: Sequence[str]) -> list[Input]:
        return [Input(f"sampling/{name}", self.sampling(name)) for name in classes]
