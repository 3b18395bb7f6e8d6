"""The model hub: what is downloaded from it, and whether it can be reached.

Its client tries again for minutes where nobody answers; so the hub is asked once, shortly, before.
"""

import re
from contextlib import suppress
from pathlib import Path

from synth_pipeline.errors import InputError

#: How long a hub may take to answer one small question.
_ANSWER_S = 10.0
_ANSWERS = "the hub answers"
#: To a name that does not exist, or that one must log in for.
_REFUSALS = tuple(f"{_ANSWERS} {status}" for status in (401, 403, 404))
_COMMIT = re.compile(r"[0-9a-f]{40}")


def download(
    name: str, revision: str | None, patterns: dict[str, list[str]], key: str
) -> tuple[Path, str]:
    """A repository's files in the hub's cache, downloaded where they are not there.

    Args:
        name: such as `owner/name`.
        revision: a branch, a tag or a commit; none is the main branch.
        patterns: `allow_patterns` and `ignore_patterns` of the files' names.
        key: of the configuration, for messages.

    Returns:
        The folder, and the commit.

    Raises:
        InputError: there is no such repository or revision, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    offline = {"local_files_only": True}
    reason: str | None = None
    try:
        if revision and _COMMIT.fullmatch(revision):
            # What a commit holds never changes, so the hub need not be asked.
            with suppress(LocalEntryNotFoundError):
                folder = Path(snapshot_download(name, revision=revision, **patterns, **offline))
                return folder, folder.name
        reason = reason_unreachable(name)
        # Where it refuses, its client says why; where it does not answer, the cache may do.
        is_down = reason is not None and reason not in _REFUSALS
        options = offline if is_down else {}
        folder = Path(snapshot_download(name, revision=revision, **patterns, **options))
    except GatedRepoError:
        raise InputError(
            f"{key} {name}: its authors give this model only to those who accept their terms; "
            "accept them on the hub's page, then run `hf auth login`."
        ) from None
    except RevisionNotFoundError:
        raise InputError(
            f"{key} {name}: the hub has no revision {revision}; name a branch, a tag or a commit."
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(
            f"{key} {name}: there is no folder {name} here, and the hub has no model of this name "
            "that you may read; check the name, or run `hf auth login` if it is private."
        ) from None
    except Exception as error:
        # The client's own errors, its HTTP library's, a proxy's login page that is no JSON.
        raise InputError(
            f"{key} {name}: there is no folder {name} here, and the model is neither cached here "
            f"nor can it be downloaded ({reason or type(error).__name__}); check the name and the "
            "network, or copy the model to this machine and name its folder."
        ) from None
    # The snapshot's folder is called after the commit.
    return folder, folder.name


def is_cached(name: str, files: tuple[str, ...]) -> bool:
    """Whether the hub's cache holds one of these files.

    Args:
        name: `owner/name`, with `@revision` where one is named.
        files: names in the repository.
    """
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = name.partition("@")
    return any(
        isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str)
        for file in files
    )


def reason_unreachable(name: str) -> str | None:
    """Why a repository cannot be downloaded now, in a few words; none if it can.

    Asks once, without the client's repetitions.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    repository = name.partition("@")[0]
    try:
        reply = get_session().get(
            f"{constants.ENDPOINT}/api/models/{repository}",
            headers=build_hf_headers(),
            timeout=_ANSWER_S,
        )
        if reply.status_code != 200:
            return f"{_ANSWERS} {reply.status_code}"
        reply.json()
    except Exception as error:
        # The HTTP library's errors, and `OfflineModeIsEnabled`.
        return type(error).__name__
    return None


def reason_address_unreachable(url: str) -> str | None:
    """Why a file cannot be downloaded from its address now; none if it can."""
    import urllib.request

    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S):
            return None
    except (OSError, ValueError) as error:
        return type(error).__name__
