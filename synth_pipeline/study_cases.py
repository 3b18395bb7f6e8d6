"""The ground a study stands on: its configuration, its store, and its cases."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

from synth_pipeline import base_model, case_sources, cases, models, registry_cases
from synth_pipeline.base_model import BaseModel
from synth_pipeline.cases import CaseSet
from synth_pipeline.config import StudyConfig
from synth_pipeline.errors import SynthPipelineError
from synth_pipeline.graph import Graph, Input, Node, TogetherBody
from synth_pipeline.phantom.dataset import PHANTOMS_VERSION
from synth_pipeline.phantom.sets import PhantomSet, phantoms_of
from synth_pipeline.private_root import scratch
from synth_pipeline.progress import Progress, silent
from synth_pipeline.registry import Registry
from synth_pipeline.shared_store import open_store
from synth_pipeline.stage_versions import STAGE_VERSIONS
from synth_pipeline.store import Artifact, Output

logger = logging.getLogger("synth_pipeline")

#: Whose versions decide a content that torch computes.
TORCH = ("torch", "numpy", "pillow")


def once(build: Callable[..., Node]) -> Callable[..., Node]:
    """Build each node once: a fold hangs on every class, and there are hundreds of both."""

    @wraps(build)
    def cached(self: "CasesOfStudy", *who: Any) -> Node:
        place = (build.__name__, *(tuple(x) if isinstance(x, list) else x for x in who))
        if place not in self._nodes:
            self._nodes[place] = build(self, *who)
        return self._nodes[place]

    return cached


class CasesOfStudy:
    """One configuration under one root folder, as far as the imported cases.

    Args:
        config: the study.
        root: folder that holds `store/` and `studies/<name>/`.
        model_dir: where the landmark model lies; the user's cache by default.
    """

    def __init__(self, config: StudyConfig, root: Path, model_dir: Path | None = None) -> None:
        self.config = config
        self.root = root
        self.folder = root / "studies" / config.name
        self.store = open_store(root / "store", config.store)
        self.graph = Graph(self.store)
        self._model_dir = model_dir
        self._nodes: dict[tuple[Any, ...], Node] = {}
        self._executed: dict[str, bool] = {}

    def make(self, node: Node, progress: Progress = silent) -> tuple[Artifact, bool]:
        """Return the node's artifact, and whether its stage was run in this process to get it."""
        artifact, executed = self.graph.make(node, progress)
        self._executed[node.name] = executed or self._executed.get(node.name, False)
        return artifact, self._executed[node.name]

    def _make_together(
        self, nodes: Sequence[Node], body: TogetherBody
    ) -> list[tuple[Artifact, bool] | SynthPipelineError]:
        made = self.graph.make_together(nodes, body)
        for node, outcome in zip(nodes, made, strict=True):
            if not isinstance(outcome, SynthPipelineError) and outcome[1]:
                self._executed[node.name] = True
        return made

    def is_made(self, node: Node) -> bool:
        """Whether the node's artifact lies in the store, whole, for the inputs as they are."""
        return self.graph.resolve(node).looked.status == "cached"

    def count_made_elsewhere(self, nodes: Sequence[Node], missing: Sequence[Node]) -> list[Node]:
        """Count the nodes that other processes were asked to make, after a look at the store.

        Args:
            nodes: all that was needed.
            missing: those of them that were not there before.

        Returns:
            Those that are not there now.
        """
        waited = {node.name for node in missing}
        for node in nodes:
            if self.is_made(node):
                self._executed.setdefault(node.name, node.name in waited)
        return [node for node in missing if not self.is_made(node)]

    def counts(self) -> dict[str, int]:
        """How many nodes `make` has run so far, and how many it found cached."""
        executed = sum(self._executed.values())
        return {"executed": executed, "cached": len(self._executed) - executed}

    @cached_property
    def base(self) -> BaseModel:
        """The base model, found once."""
        settings = self.config.dreambooth
        return base_model.resolve_base(
            settings.base_model,
            revision=settings.revision,
            base_vae=settings.base_vae,
            precision=settings.precision,
        )

    def check_base(self) -> None:
        """Make sure that the base model can be loaded; takes seconds where it is new here.

        Raises:
            InputError: it is not whole, or its weights are not those of its networks.
        """
        base, settings = self.base, self.config.dreambooth
        learned_from = (made["parameters"]["base"] for made in self.store.manifests("dreambooth"))
        # The embedded one is ours, and its files were looked at.
        is_ours = base.folder == base_model.EMBEDDED_FOLDER and base.vae_folder is None
        if not is_ours and base.identity not in learned_from:
            base_model.check_networks(base, settings.base_model, settings.base_vae)

    @cached_property
    def landmark_model(self) -> Path:
        """The landmark model's file, its SHA-256 checked once."""
        return models.face_landmarker_path(self._model_dir)

    @cached_property
    def _source(self) -> case_sources.Source:
        return case_sources.look(self.config.cases)

    @property
    def photos(self) -> list[case_sources.SourcePhoto]:
        """What lies in the source folder; empty where the cases are phantoms or registered."""
        if self.config.cases.format in ("phantom", "registry"):
            return []
        return self._source.photos

    @cached_property
    def registry(self) -> Registry:
        """The case registry, which `cases.source` names or which lies under the root."""
        return registry_cases.registry_of(self.config.cases, self.root)

    @property
    def case_set(self) -> CaseSet:
        """The imported cases, which must have been made."""
        return cases.load(self.graph.artifact(self.cases()).path)

    @once
    def cases(self) -> Node:
        """Photos imported, sanitised and split."""
        settings, seed = self.config.cases, self.config.seed
        parameters: dict[str, Any] = {"seed": seed, "cases": settings.key_slice()}
        # The place of the photos is nobody's business; their content is what counts.
        del parameters["cases"]["source"]
        if settings.format == "phantom":
            parameters["landmark_model"] = models.FACE_LANDMARKER_SHA256
            parameters["cases"]["phantom"] = asdict(self.phantoms)
            parameters["phantoms_version"] = PHANTOMS_VERSION
        elif settings.format == "registry":
            # Seed and share decided the sides when the cases arrived; now they are fixed.
            parameters = {"registry": registry_cases.digest(settings, self.registry)}
        else:
            parameters["source"] = case_sources.source_digest(self.photos)
            parameters["landmark_model"] = models.FACE_LANDMARKER_SHA256
            del parameters["cases"]["phantom"]

        def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
            if settings.format == "phantom":
                done = self._render_phantoms(out_dir, progress)
            elif settings.format == "registry":
                done = registry_cases.run(settings, registry=self.registry, out_dir=out_dir)
            else:
                photos = self.photos
                for note in self._source.notes:
                    logger.info("cases: %s", note)
                done = cases.run(
                    settings,
                    photos=photos,
                    seed=seed,
                    out_dir=out_dir,
                    landmark_model=self.landmark_model,
                    source_digest=parameters["source"],
                    progress=progress,
                )
            return Output(parts=cases.parts(out_dir), measurements=done)

        return self._node("cases", "", parameters, body, libraries=("numpy", "pillow"))

    @cached_property
    def phantoms(self) -> PhantomSet:
        """The set of phantoms that the cases are, with format phantom."""
        return phantoms_of(self.config)

    def _render_phantoms(self, out_dir: Path, progress: Progress) -> dict[str, float]:
        with scratch(self.root) as folder:
            rendered = folder / "phantoms"
            self.phantoms.make(rendered, mesh_path=self.landmark_model, progress=progress)
            source = self.config.cases.model_copy(update={"source": str(rendered), "format": "csv"})
            photos = case_sources.scan(source)
            return cases.run(source, photos=photos, seed=self.config.seed, out_dir=out_dir)

    def _train_inputs(self, classes: Sequence[str]) -> list[Input]:
        # All the edges lead to one folder, which the body knows as "cases".
        node = self.cases()
        edges = [Input(f"train/{name}", node, f"train/{name}") for name in classes]
        return [Input("cases", node, keyed=False), *edges]

    def _node(
        self,
        stage: str,
        label: str,
        parameters: Mapping[str, Any],
        body: Any,
        inputs: tuple[Input, ...] = (),
        libraries: tuple[str, ...] = (),
        resumable: bool = False,
        key_label: Callable[[Mapping[str, Mapping[str, str]]], str] | None = None,
    ) -> Node:
        version = STAGE_VERSIONS[stage]
        return Node(
            stage, label, version, parameters, body, inputs, libraries, resumable, key_label
        )


def without(section: dict[str, Any], *names: str) -> dict[str, Any]:
    """A section without the values that another parameter says better."""
    return {name: value for name, value in section.items() if name not in names}
