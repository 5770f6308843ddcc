"""One file of a repository of the Hugging Face hub: access, hash and address.

huggingface_hub, which is there only where a host uses the hub, knows names, access and hashes. The bytes are not left
to it: what it has of a download that breaks off it deletes.
"""

from __future__ import annotations

import os
from typing import Any

from ..hostlib.http_client import origin_of
from .address import asked
from .errors import ModelError, one_line


class Hub:
    """A file that the hub was asked about. Raises ModelError where it can't be had."""

    def __init__(self, repo: str, file: str, revision: str, endpoint: str | None, token: str | None) -> None:
        self._repo, self._file, self._revision = repo, file, revision
        self._endpoint, self._token = endpoint or None, token or None
        if problem := token_problem(self._token):
            raise ModelError(problem)
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            import huggingface_hub
            import huggingface_hub.errors
        except ImportError as error:
            raise ModelError(
                f"huggingface_hub can't be imported ({error}): install it for this interpreter, "
                "or use a path or url source"
            ) from error
        self._lib: Any = huggingface_hub
        self._metadata = self._look_up()

    @property
    def endpoint(self) -> str:
        """The address of the hub, or of the mirror."""
        endpoint: str = self._endpoint or self._lib.constants.ENDPOINT
        return endpoint

    @property
    def etag(self) -> str | None:
        """The name of the content."""
        etag: str | None = self._metadata.etag
        return etag

    @property
    def size_bytes(self) -> int | None:
        """The file's size, where the hub says it."""
        size: int | None = self._metadata.size
        return size

    @property
    def sha256(self) -> str | None:
        """The file's hash as the hub knows it; None for a file outside of its large file storage."""
        return self.etag if self.etag and is_sha256(self.etag) else None

    def resolve(self) -> tuple[str, str | None]:
        """The address of the bytes, and the Authorization that its origin is to get."""
        self._metadata = self._look_up()
        try:
            address, given = asked(self._metadata.location)
        except ValueError as error:
            raise ModelError(self._unreachable(f"leads to an address that can't be asked for ({error})")) from error
        # The token is for the hub; the storage that it redirects to has a signature in the address.
        is_ours = origin_of(address) == origin_of(self.endpoint)
        return address, f"Bearer {self._token}" if self._token and is_ours else given

    def _look_up(self) -> Any:
        errors = self._lib.errors
        try:
            return self._lib.get_hf_file_metadata(
                self._lib.hf_hub_url(self._repo, self._file, revision=self._revision, endpoint=self._endpoint),
                token=self._token or False,
                endpoint=self._endpoint,
            )
        except errors.GatedRepoError as error:
            raise ModelError(self._needs_token("is gated")) from error
        except errors.RevisionNotFoundError as error:
            raise ModelError(
                f"the hub's repository {self._repo} has no revision {self._revision}: correct revision"
            ) from error
        except errors.EntryNotFoundError as error:
            raise ModelError(
                f"the hub's repository {self._repo} has no file {self._file}: name one of "
                f"{', '.join(self._files()) or '(it has no .gguf file)'}"
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
            f"the hub {self.endpoint} {what}; "
            "where it is out of reach use a path or url source, or name a mirror in HF_ENDPOINT"
        )

    def _files(self) -> list[str]:
        api = self._lib.HfApi(endpoint=self._endpoint, token=self._token or False)
        names = api.list_repo_files(self._repo, revision=self._revision)
        return sorted(name for name in names if name.endswith(".gguf"))


def token_problem(token: str | None) -> str | None:
    """The problem with a token, without a letter of it; None where it can be sent.

    One that can't be sent would stand in the errors of those who try, escaped, where nothing masks it.
    """
    if not token or (token.isascii() and token.isprintable() and " " not in token):
        return None
    return (
        "HF_TOKEN in the controller's environment has a line end, a space or another character that no token has "
        "(it is not shown here): set it again"
    )


def is_sha256(text: str) -> bool:
    """True for a text that looks like a sha256."""
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)
