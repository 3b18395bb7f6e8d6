"""A local store with a bucket behind it, for machines that share no disk.

The folder stays what stages read and write. What is published in it is put into the bucket; what
lies in the bucket counts as cached, and its files are fetched, and verified, when they are read.
The bucket decides: where it holds another content for a key than the folder, the folder gives way,
because every machine must compute the same keys.
"""

import contextlib
import hashlib
import json
import platform
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from synth_pipeline.bucket import Bucket
from synth_pipeline.manifest import MANIFEST, Artifact, artifact_of
from synth_pipeline.remote_store import RemoteStore
from synth_pipeline.store import Looked, Store

_YOUNG_S = 60.0


class SharedStore(Store):
    """Artifacts under one root folder and in a bucket.

    Args:
        root: folder of the local store.
        remote: what is shared.
    """

    def __init__(self, root: Path, remote: RemoteStore) -> None:
        super().__init__(root)
        self.remote = remote

    def check(self) -> None:
        """See that the bucket can be used.

        Raises:
            InputError: no such bucket, or no right to it.
            StoreUnreachableError: the network is down.
        """
        self.remote.bucket.check()

    def fetch(self, artifact: Artifact) -> bool:
        """Download an artifact that lies in the bucket only; see `Store.fetch`."""
        place = (artifact.stage, artifact.key)
        if place in self._verified and not self._verified[place].is_away:
            return True
        with self._disk_errors(), self._lock(*place):
            local = self._verify(*place)  # another process may have fetched it
            if local.status != "cached" or not _are_alike(local.artifact, artifact):
                if not self._download(artifact):
                    self._verified.pop(place, None)
                    return False
                local = self._verify(*place)
            self._mark(artifact)
        self._verified[place] = local
        return True

    def look_again(self) -> None:
        """Forget what was missing, here and in the bucket."""
        super().look_again()
        self.remote.look_again()

    def sweep(self) -> int:
        """Remove what killed processes left, here and in the bucket."""
        for path in self.root.glob(".owner-*"):
            # Renamed at once, unless whoever made it was killed.
            if time.time() - path.stat().st_mtime > _YOUNG_S:
                path.unlink(missing_ok=True)
        return super().sweep() + self.remote.sweep()

    @contextlib.contextmanager
    def _claim(self, stage: str, key: str) -> Iterator[None]:
        with (
            self._lock(stage, key),
            self.remote.lease(
                self._owner(),
                stage,
                key,
                is_made=lambda: self.remote.look(stage, key).status == "sound",
            ),
        ):
            yield

    def _find(self, stage: str, key: str) -> Looked:
        local = self._verify(stage, key)
        if local.status == "cached" and local.artifact and self._is_marked(local.artifact):
            return local
        there = self.remote.look(stage, key)
        if there.status == "sound" and there.manifest is not None:
            artifact = artifact_of(there.manifest, self.root / stage / key)
            if local.status == "cached" and _are_alike(local.artifact, artifact):
                return local
            told = "in the bucket; its manifest and the sizes of its files were verified"
            return Looked("cached", artifact, told, is_away=True)
        if local.status == "missing" and there.status == "damaged":
            known = artifact_of(there.manifest, self.root / stage / key) if there.manifest else None
            return Looked("damaged", known, there.reason)
        return local

    def _offer(self, stage: str, key: str) -> None:
        artifact = self._here(stage, key)
        if artifact is None or (self._is_marked(artifact) and self.remote.holds(stage, key)):
            return
        # Whoever made it here was killed before it was in the bucket; or is just putting it there.
        with self._disk_errors(), self._lock(stage, key):
            self._share(stage, key)
            self.remote.end_lease(self._owner(), stage, key)

    def _here(self, stage: str, key: str) -> Artifact | None:
        looked = self._verified[stage, key]
        return looked.artifact if looked.status == "cached" and not looked.is_away else None

    def _share(self, stage: str, key: str) -> None:
        artifact = self._here(stage, key)
        if artifact is None:
            return
        standing = self.remote.upload(artifact, (artifact.path / MANIFEST).read_bytes())
        if _are_alike(artifact_of(standing, artifact.path), artifact):
            self._mark(artifact)
        else:  # another machine was faster, and its bits are not ours
            self._verified[stage, key] = self._find(stage, key)

    def _download(self, artifact: Artifact) -> bool:
        beside = self._new_folder(artifact.stage, artifact.key)
        try:
            if self.remote.download(artifact.manifest, beside):
                return False
            text = json.dumps(artifact.manifest, indent=1, ensure_ascii=False)
            (beside / MANIFEST).write_text(text, encoding="utf-8")
            self._put_in_place(artifact.manifest, beside)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return True

    def _mark(self, artifact: Artifact) -> None:
        """Remember that this content is the bucket's, so that one need not ask again."""
        path = self._mark_of(artifact)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)

    def _is_marked(self, artifact: Artifact) -> bool:
        return self._mark_of(artifact).exists()

    def _mark_of(self, artifact: Artifact) -> Path:
        told = f"{self.remote.bucket.url} {artifact.digest}"
        which = hashlib.sha256(told.encode()).hexdigest()[:16]
        return self.root / ".shared" / f"{artifact.stage}-{artifact.key}-{which}"

    def _owner(self) -> str:
        """A name for this store on this machine: two that share a disk by network are two."""
        path = self.root / ".owner"
        if not path.exists():
            beside = path.with_name(f".owner-{uuid.uuid4().hex}")
            beside.write_text(beside.name)
            # Of two processes one gives the name.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(beside)
            beside.unlink()
        told = f"{path.read_text()} {platform.node()}"
        return hashlib.sha256(told.encode()).hexdigest()[:32]


def _are_alike(one: Artifact | None, other: Artifact) -> bool:
    """Whether two artifacts have one content; their measured times may differ."""
    return one is not None and (one.digest, one.parts) == (other.digest, other.parts)


def open_store(root: Path, url: str | None) -> Store:
    """The store under a folder, with the bucket behind it if there is one.

    Args:
        root: folder of the local store.
        url: such as `s3://bucket/prefix`.
    """
    return SharedStore(root, RemoteStore(Bucket(url))) if url else Store(root)
