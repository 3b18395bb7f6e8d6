"""A store in a bucket, which machines share that share no disk. It mirrors local stores.

    manifests/<stage>/<key>.json              written last: without it, nothing is there
    files/<stage>/<key>/<digest>/<name>       in a folder of their content: two versions never mix
    leases/<stage>/<key>/<n>                  who is making it

Of two manifests for one key the first stands, because it is written only if there is none.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from synth_pipeline.bucket import Bucket, Listed
from synth_pipeline.leases import Leases
from synth_pipeline.manifest import MANIFEST, Artifact, difference, parse


class Found(NamedTuple):
    """What a bucket holds under a key; with `sound`, sizes were compared, not yet contents."""

    status: Literal["sound", "missing", "damaged"]
    manifest: Mapping[str, Any] | None = None
    reason: str = ""


class RemoteStore:
    """Artifacts in a bucket.

    Args:
        bucket: where; it must be private (it holds patients' faces).
        expiry_s: how long a lease lasts whose holder does not stir.
    """

    def __init__(self, bucket: Bucket, expiry_s: float = 60) -> None:
        self.bucket = bucket
        self._expiry_s = expiry_s
        #: Digests whose files were downloaded and found changed: their sizes prove nothing.
        self._distrusted: set[tuple[str, str, str]] = set()
        self._surveys: dict[str, _Survey] = {}

    def look(self, stage: str, key: str) -> Found:
        """Read the manifest and compare the files' sizes; downloads no file.

        What a process has seen whole it does not ask for again; what it has not, it does, because
        another machine may have made it meanwhile.
        """
        survey = self._survey(stage)
        if (content := survey.manifests.get(_manifest(stage, key))) is not None:
            found = self._judge(stage, key, content, survey.files)
            if found.status == "sound":
                return found
        return self._look_now(stage, key)

    def _look_now(self, stage: str, key: str) -> Found:
        content = self.bucket.read(_manifest(stage, key))
        if content is None:
            return Found("missing")
        return self._judge(stage, key, content, self.bucket.list(f"files/{stage}/{key}/"))

    def _judge(self, stage: str, key: str, content: bytes, files: Mapping[str, Listed]) -> Found:
        manifest = parse(content)
        if manifest is None or (manifest["stage"], manifest["key"]) != (stage, key):
            return Found("damaged", reason=f"{MANIFEST} was changed in the bucket")
        if (stage, key, manifest["digest"]) in self._distrusted:
            return Found("damaged", manifest, "a file was changed in the bucket")
        if unlike := _unlike(manifest, files):
            return Found("damaged", manifest, f"{unlike[0]} is gone or cut short in the bucket")
        return Found("sound", manifest)

    def look_again(self) -> None:
        """Forget which artifacts there were."""
        self._surveys.clear()

    def holds(self, stage: str, key: str) -> bool:
        """Whether there was a manifest when this process first asked for one of the stage."""
        return _manifest(stage, key) in self._survey(stage).names

    def download(self, manifest: Mapping[str, Any], folder: Path) -> str:
        """Bring the files into a folder and verify them.

        Returns:
            Empty, or which file is not what the manifest says; it is not trusted again.
        """
        place = _files(manifest)
        targets = {f"{place}{name}": folder / name for name in manifest["files"]}
        for parent in {target.parent for target in targets.values()}:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # then it is told by its name
            self.bucket.download(targets)
        wrong = difference(manifest, folder)
        if wrong:
            self._distrusted.add((manifest["stage"], manifest["key"], manifest["digest"]))
        return wrong

    def upload(self, artifact: Artifact, content: bytes) -> Mapping[str, Any]:
        """Put a verified local artifact into the bucket, the manifest last.

        What a killed upload left of the same content is not sent again.

        Args:
            content: bytes of its manifest.

        Returns:
            The manifest that now stands: of another content, if another machine was first.
        """
        stage, key, manifest = artifact.stage, artifact.key, artifact.manifest
        while True:
            before = self._look_now(stage, key)
            if before.status == "sound" and before.manifest is not None:
                return before.manifest
            changed = (stage, key, artifact.digest) in self._distrusted
            place = _files(manifest)
            there = {} if changed else self.bucket.list(place)
            names = _unlike(manifest, there)
            self.bucket.upload({f"{place}{name}": artifact.path / name for name in names})
            self._distrusted.discard((stage, key, artifact.digest))
            if before.status == "damaged":
                self.bucket.remove([_manifest(stage, key)])
            # Not there yet, or removed just now: if it is there again, somebody was faster.
            if self.bucket.create(_manifest(stage, key), content):
                self._survey(stage).names.add(_manifest(stage, key))
                return manifest

    def lease(
        self, owner: str, stage: str, key: str, is_made: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[None]:
        """Wait until no other machine makes this; see `Leases.held`."""
        return Leases(self.bucket, owner, self._expiry_s).held(f"{stage}/{key}", is_made)

    def end_lease(self, owner: str, stage: str, key: str) -> None:
        """Remove the lease that a dead process of `owner` left, if it left one."""
        Leases(self.bucket, owner, self._expiry_s).end(f"{stage}/{key}")

    def sweep(self) -> int:
        """Remove what nobody will read: files without their manifest, older than a week.

        Looks once a day, whichever machine comes first, because it lists the whole bucket.

        Returns:
            How many artifacts' files and leases were removed.
        """
        now_s = time.time()
        last = self.bucket.list("swept")
        if any(now_s - told.modified.timestamp() < _DAY_S for told in last.values()):
            return 0
        self.bucket.write("swept", b"")
        removed = 0
        for group in self._orphans(now_s):
            self.bucket.remove(group)
            removed += 1
        return removed

    def _orphans(self, now_s: float) -> Iterator[list[str]]:
        manifests = set(self.bucket.list("manifests/"))
        groups: dict[tuple[str, ...], list[str]] = {}
        touched_s: dict[tuple[str, ...], float] = {}
        for kind, depth in (("files", 4), ("leases", 3)):
            for name, told in self.bucket.list(f"{kind}/").items():
                group = tuple(name.split("/")[:depth])
                groups.setdefault(group, []).append(name)
                touched_s[group] = max(touched_s.get(group, 0), told.modified.timestamp())
        versions = [group[:3] for group in groups if group[0] == "files"]
        for group, names in groups.items():
            if now_s - touched_s[group] < _WEEK_S:
                continue
            stage, key = group[1], group[2]
            if group[0] == "files" and _manifest(stage, key) in manifests:
                if versions.count(group[:3]) == 1:
                    continue
                standing = self._look_now(stage, key).manifest
                if standing is None or _files(standing) == "/".join(group) + "/":
                    continue
            yield names

    def _survey(self, stage: str) -> "_Survey":
        """All of a stage in a few requests: a study looks at hundreds of its artifacts."""
        if stage not in self._surveys:
            names = set(self.bucket.list(f"manifests/{stage}/"))
            few = sorted(names) if len(names) <= _MOST_SURVEYED else []
            # The files after the manifests, which came last: so none can be missing.
            self._surveys[stage] = _Survey(
                names,
                self.bucket.read_many(few),
                self.bucket.list(f"files/{stage}/") if few else {},
            )
        return self._surveys[stage]


class _Survey(NamedTuple):
    """What a stage held when this process first looked; beyond some thousands, names only."""

    names: set[str]
    manifests: Mapping[str, bytes]
    files: Mapping[str, Listed]


def _unlike(manifest: Mapping[str, Any], there: Mapping[str, Listed]) -> list[str]:
    """Names of the manifest's files that are not there with their size."""
    place = _files(manifest)
    return [
        name
        for name, known in manifest["files"].items()
        if (told := there.get(f"{place}{name}")) is None or told.size_bytes != known["bytes"]
    ]


_DAY_S = 24 * 3600
_WEEK_S = 7 * _DAY_S
#: Manifests of a stage that are read ahead; a study has some hundred.
_MOST_SURVEYED = 2000


def _manifest(stage: str, key: str) -> str:
    return f"manifests/{stage}/{key}.json"


def _files(manifest: Mapping[str, Any]) -> str:
    return f"files/{manifest['stage']}/{manifest['key']}/{manifest['digest'][:32]}/"
