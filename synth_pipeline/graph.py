"""What hangs on what: nodes, their keys, and why one would run.

A node's key is made of the *content* of its inputs, not of how they came about. So when a stage is
run again and gives the same bytes, nothing behind it runs; and a stage may hang on a part of an
artifact (one class of the case set), so that a change elsewhere in it is no change.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from synth_pipeline.errors import InputError, StageError, SynthPipelineError
from synth_pipeline.progress import Progress, silent
from synth_pipeline.store import Artifact, Looked, Output, Recipe, Store

#: A stage's work: input name to folder, an empty folder to write into, and progress. A resumable
#: one finds the folder of its state among the inputs, under `WORK`.
Body = Callable[[Mapping[str, Path], Path, Progress], Output]
WORK = "work"


@dataclass(frozen=True, eq=False)
class Input:
    """An edge of the graph.

    Attributes:
        name: what the body calls it.
        part: the part of the artifact that it hangs on; none for all of it.
        keyed: false where another input already decides what is read of this one, which then
            only has to be there.
    """

    name: str
    node: "Node"
    part: str | None = None
    keyed: bool = True


@dataclass(frozen=True, eq=False)
class Node:
    """One artifact to be made: a stage for one class, one fold, or the whole study.

    Attributes:
        key_label: the label in the key, by input name and parts of that artifact, where the node's
            own would part what is the same; none takes the node's own.
    """

    stage: str
    label: str
    version: int
    parameters: Mapping[str, Any]
    body: Body
    inputs: tuple[Input, ...] = ()
    libraries: tuple[str, ...] = ()
    resumable: bool = False
    key_label: Callable[[Mapping[str, Mapping[str, str]]], str] | None = None

    @property
    def name(self) -> str:
        """What people are shown, such as "sampling noonan"."""
        return f"{self.stage} {self.label}".strip()


#: A run of several nodes: of each the node, its inputs and its empty folder.
TogetherBody = Callable[
    [Sequence[tuple[Node, Mapping[str, Path], Path]]], Sequence[Output | SynthPipelineError]
]


@dataclass(frozen=True)
class Resolved:
    """A node as it stands in the store.

    Attributes:
        recipe: none while an input is not made, because then the key is not known.
    """

    recipe: Recipe | None
    looked: Looked


@dataclass(frozen=True)
class PlanRow:
    """One line of the plan: `cached`, or `run` and why."""

    stage: str
    label: str
    status: Literal["cached", "run"]
    reason: str
    key: str


@dataclass
class Graph:
    """Nodes resolved against a store, each once; `make` runs what is not there."""

    store: Store
    _resolved: dict[str, Resolved] = field(default_factory=dict)
    _newest: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def resolve(self, node: Node) -> Resolved:
        """Compute the node's key from the content of its inputs, and look under it."""
        if node.name not in self._resolved:
            self._resolved[node.name] = self._resolve(node)
        return self._resolved[node.name]

    def look_again(self) -> None:
        """Forget what was not there, because other processes may have made it since."""
        self._resolved.clear()
        self.store.look_again()

    def measurements(self, node: Node) -> Mapping[str, float]:
        """What the node's stage measured, which must have been made; fetches none of its files."""
        return self._made(node).manifest["measurements"]

    def artifact(self, node: Node) -> Artifact:
        """The node's artifact, which must have been made, with its files at hand.

        Raises:
            InputError: it was not made.
            StageError: its copy in the bucket was damaged, and what was made instead differs.
        """
        made = self._made(node)
        if self.store.fetch(made):
            return made
        del self._resolved[node.name]
        again, _ = self.make(node)
        if again.digest != made.digest:
            # Whoever asks has a key that was made of the digest before.
            raise StageError(
                f"{node.name} was damaged in the bucket; it was made again, with other bits than "
                "before (another machine or library): run the same command again."
            )
        return again

    def make(self, node: Node, progress: Progress = silent) -> tuple[Artifact, bool]:
        """Return the node's artifact, and whether its stage was run to get it.

        Raises:
            InputError: an input of it was not made.
            SynthPipelineError: whatever the stage raises for wrong input.
        """
        before = self.resolve(node)
        recipe = before.recipe
        if recipe is None:
            raise InputError(_not_made(node, before.looked.reason))

        def body(out_dir: Path) -> Output:
            begun_s = time.monotonic()
            output = node.body(self._folders(node, recipe), out_dir, progress)
            # What a stage took is what the next one will be estimated by.
            taken = {"seconds": time.monotonic() - begun_s}
            return replace(output, measurements={**taken, **output.measurements})

        artifact, executed = self.store.make(recipe, body)
        self._settle(node, before, artifact)
        return artifact, executed

    def make_together(
        self,
        nodes: Sequence[Node],
        body: TogetherBody,
    ) -> list[tuple[Artifact, bool] | SynthPipelineError]:
        """Make several nodes of one stage in one run; the failure of one is its own.

        Args:
            nodes: whose inputs are made; those that are cached are left out of the run.
            body: instead of the nodes' own.

        Returns:
            For each node what `make` returns, or the error.
        """
        before = [self.resolve(node) for node in nodes]
        recipes = [resolved.recipe for resolved in before]
        known = [recipe for recipe in recipes if recipe is not None]
        for node, resolved in zip(nodes, before, strict=True):
            if resolved.recipe is None:
                raise InputError(_not_made(node, resolved.looked.reason))

        def run(
            numbers: Sequence[int], folders: Sequence[Path]
        ) -> Sequence[Output | SynthPipelineError]:
            return body(
                [
                    (nodes[i], self._folders(nodes[i], known[i]), folder)
                    for i, folder in zip(numbers, folders, strict=True)
                ]
            )

        made = self.store.make_together(known, run)
        for node, resolved, outcome in zip(nodes, before, made, strict=True):
            if not isinstance(outcome, SynthPipelineError):
                self._settle(node, resolved, outcome[0])
        return made

    def _made(self, node: Node) -> Artifact:
        looked = self.resolve(node).looked
        if looked.status != "cached" or looked.artifact is None:
            raise InputError(_not_made(node, looked.reason))
        return looked.artifact

    def _settle(self, node: Node, before: Resolved, artifact: Artifact) -> None:
        """Remember a node that was made, and forget what was resolved without it.

        And no more than that: a study of 103 classes has thousands of nodes, and to resolve each
        anew after every stage took longer than many a stage.
        """
        known = before.looked.artifact
        if known is None:
            waiting = [name for name, other in self._resolved.items() if other.recipe is None]
            for name in waiting:
                del self._resolved[name]
        elif (known.digest, known.parts) != (artifact.digest, artifact.parts):
            # It was damaged, and was made with other bits: what hangs on it has other keys.
            self._resolved.clear()
        self._resolved[node.name] = Resolved(before.recipe, Looked("cached", artifact))

    def _folders(self, node: Node, recipe: Recipe) -> dict[str, Path]:
        folders = {item.name: self.artifact(item.node).path for item in node.inputs}
        if node.resumable:
            folders[WORK] = self.store.work_dir(recipe)
        return folders

    def plan(self, nodes: Iterable[Node]) -> list[PlanRow]:
        """Say for every node whether it is cached or would run, and why; runs nothing."""
        return [self._plan_row(node) for node in nodes]

    def _resolve(self, node: Node) -> Resolved:
        digests: dict[str, str] = {}
        parts: dict[str, Mapping[str, str]] = {}
        for item in node.inputs:
            if not item.keyed:
                continue
            artifact = self.resolve(item.node).looked.artifact
            if artifact is None:
                reason = f"waits for {item.node.name}"
                return Resolved(None, Looked("missing", reason=reason))
            digests[item.name] = artifact.parts[item.part] if item.part else artifact.digest
            parts[item.name] = artifact.parts
        recipe = Recipe(
            stage=node.stage,
            label=node.key_label(parts) if node.key_label else node.label,
            version=node.version,
            parameters=node.parameters,
            inputs=digests,
            libraries={name: _version(name) for name in node.libraries},
        )
        return Resolved(recipe, self.store.look(recipe))

    def _plan_row(self, node: Node) -> PlanRow:
        resolved = self.resolve(node)
        recipe, looked = resolved.recipe, resolved.looked
        if looked.status == "cached":
            key = recipe.key if recipe else ""
            return PlanRow(node.stage, node.label, "cached", looked.reason, key)
        reason = looked.reason
        if recipe is not None and looked.status == "missing":
            reason = self._what_changed(recipe) or reason
        return PlanRow(node.stage, node.label, "run", reason, recipe.key if recipe else "")

    def _what_changed(self, recipe: Recipe) -> str:
        """Compare with the newest artifact of the same stage and label, if there is one."""
        if recipe.stage not in self._newest:
            # The newest comes first, so that setdefault keeps it.
            newest = self._newest.setdefault(recipe.stage, {})
            for manifest in self.store.manifests(recipe.stage):
                newest.setdefault(manifest["label"], manifest)
        before = self._newest[recipe.stage].get(recipe.label)
        return "; ".join(_differences(before, recipe)) if before else ""


def _not_made(node: Node, why: str) -> str:
    """A run makes everything in its order; only somebody else's removing or asking leads here."""
    return f"{node.name} is not made ({why}); run the study first, with the same settings."


@cache
def _version(library: str) -> str:
    # Each asking parses a file, and a large study asks thousands of times.
    return version(library)


def _differences(manifest: Mapping[str, Any], recipe: Recipe) -> list[str]:
    found = []
    if manifest["version"] != recipe.version:
        found.append(f"the stage's version went from {manifest['version']} to {recipe.version}")
    for name in sorted(set(manifest["parameters"]) | set(recipe.parameters)):
        old, new = manifest["parameters"].get(name), recipe.parameters.get(name)
        if old != new:
            found.append(f"{name} {_short(old, new)}")
    for name in sorted(set(manifest["libraries"]) | set(recipe.libraries)):
        old, new = manifest["libraries"].get(name), recipe.libraries.get(name)
        if old != new:
            found.append(f"{name} {_short(old, new)}")
    changed = [
        name
        for name in sorted(set(manifest["inputs"]) | set(recipe.inputs))
        if manifest["inputs"].get(name) != recipe.inputs.get(name)
    ]
    if changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if changed[3:] else "")
        found.append(f"input changed: {shown}")
    return found


def _short(old: Any, new: Any) -> str:
    """How a value changed; a list or a section names the members that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = [
            f"{name} {_short(old.get(name), new.get(name))}"
            for name in sorted(set(old) | set(new))
            if old.get(name) != new.get(name)
        ]
        return "changed (" + ", ".join(parts) + ")"
    text = f"went from {old} to {new}"
    return text if len(text) <= 90 else "changed"
