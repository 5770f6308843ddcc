"""Files of a repository of the Hugging Face hub: whether they can be had, where, their sizes and hashes.

    hub = Hub("ggml-org/gpt-oss-120b-GGUF", "main", endpoint=None, token=None)
    hub.look_up([{"file": "gpt-oss-120b-mxfp4-00001-of-00003.gguf"}, …])

huggingface_hub, on the controller, knows names, access and hashes. The bytes are not left to it: hosts fetch them
(module gguf_file), since what it has of a download that breaks off it deletes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..module_utils.gguf_model.errors import ModelError, one_line
from ..module_utils.gguf_model.hub_token import token_problem
from ..module_utils.gguf_model.origins import nearest_first


@dataclass(frozen=True)
class HubFile:
    """A file that the hub has."""

    path: str
    """The path of its address, below that of the hub; with the commit, so that all hosts get the same."""
    size_bytes: int | None
    """Its size, where the hub says it."""
    sha256: str
    """The hash that it must have."""


class Hub:
    """A repository at a revision. Raises ModelError where the token can't be sent."""

    def __init__(self, repo: str, revision: str, endpoint: str | None, token: str | None) -> None:
        # Ansible loads all filters of a collection together: those who have no model from the hub need no library.
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # it is read once, by the next line
        import huggingface_hub
        import huggingface_hub.errors

        self._lib: Any = huggingface_hub
        self._repo, self._revision, self._token = repo, revision, token or None
        if problem := token_problem(self._token):
            raise ModelError(problem)
        self.endpoint = (endpoint or huggingface_hub.constants.ENDPOINT).rstrip("/")
        """The address of the hub, or of the mirror."""

    def look_up(self, wanted: Sequence[Mapping[str, str]]) -> list[HubFile]:
        """All wanted files, each with ``file``, its name, and ``sha256`` where that is known already.

        Raises ModelError of the first that can't be had, or that could not be verified.
        """
        return [self._look_up(entry["file"], entry.get("sha256")) for entry in wanted]

    def _look_up(self, file: str, sha256: str | None) -> HubFile:
        metadata = self._metadata(file)
        etag = metadata.etag or ""
        told = etag if is_sha256(etag) else None  # a file outside of its large file storage has another
        wanted = (sha256 or "").lower() or told
        if wanted is None:
            raise ModelError(
                f"{one_line(self.endpoint)} tells no sha256 of {self._repo}/{file}, so what comes could not be "
                "verified: set sha256 in the profile, or name a hub in HF_ENDPOINT that tells it"
            )
        if told not in (None, wanted):
            raise ModelError(
                f"wrong sha256: {self._repo}/{file} has {told}, {wanted} is wanted; correct sha256, or revision"
            )
        at = self._lib.hf_hub_url(
            self._repo, file, revision=metadata.commit_hash or self._revision, endpoint=self.endpoint
        )
        return HubFile(at.removeprefix(self.endpoint), metadata.size or None, wanted)

    def _metadata(self, file: str) -> Any:
        errors = self._lib.errors
        try:
            return self._lib.get_hf_file_metadata(
                self._lib.hf_hub_url(self._repo, file, revision=self._revision, endpoint=self.endpoint),
                token=self._token or False,
                endpoint=self.endpoint,
            )
        except errors.GatedRepoError as error:
            raise ModelError(self._needs_token("is gated")) from error
        except errors.RevisionNotFoundError as error:
            raise ModelError(
                f"the hub's repository {self._repo} has no revision {self._revision}: correct revision"
            ) from error
        except errors.EntryNotFoundError as error:
            raise ModelError(
                f"the hub's repository {self._repo} has no file {file}: name one of "
                f"{', '.join(self._files(file)) or '(it has no .gguf file)'}"
            ) from error
        except errors.RepositoryNotFoundError as error:
            # The hub answers 401 for repositories that don't exist, so as not to tell which private ones do.
            raise ModelError(
                f"the hub has no repository {self._repo}: correct repo, or if it is private set HF_TOKEN "
                "in the controller's environment to a token that may read it"
            ) from error
        except errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            if status in (401, 403):
                raise ModelError(self._needs_token(f"answers {status}")) from error
            raise ModelError(self._unreachable(f"answers {status}")) from error
        except errors.HFValidationError as error:
            raise ModelError(
                f"{self._repo} is no name of a hub repository: correct repo ({one_line(error)})"
            ) from error
        except Exception as error:  # huggingface_hub lets the errors of its HTTP client through, and changes clients
            raise ModelError(self._unreachable(f"can't be reached: {one_line(error)}")) from error

    def _needs_token(self, what: str) -> str:
        return (
            f"the hub's repository {self._repo} {what}: accept its terms on its page and set HF_TOKEN in the "
            "controller's environment to a token that may read it"
        )

    def _unreachable(self, what: str) -> str:
        return (
            f"the hub {one_line(self.endpoint)} {what}; "
            "where it is out of reach use a path or url source, or name a mirror in HF_ENDPOINT"
        )

    def _files(self, like: str) -> list[str]:
        """The repository's models, those first whose names are nearest."""
        api = self._lib.HfApi(endpoint=self.endpoint, token=self._token or False)
        names = api.list_repo_files(self._repo, revision=self._revision)
        return nearest_first(like, [name for name in names if name.endswith(".gguf")])


def is_sha256(text: str) -> bool:
    """True for a text that looks like a sha256."""
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)
