"""The headers of a model, wherever it lies: a file, an address, the Hugging Face hub, or a profile of the catalogue.

    shape = open_model("ggml-org/gpt-oss-20b-GGUF:gpt-oss-20b-mxfp4.gguf", catalogue)

Of a remote model only the header is transferred, by ranges. Addresses on the hub are huggingface_hub's, so HF_ENDPOINT
counts; the token of HF_TOKEN goes to the hub alone, not where it redirects to.
"""

from __future__ import annotations

import contextlib
import difflib
import http.client
import os
import re
import urllib.error
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import yaml

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib import gguf
from nexus_tasks.hostlib.http_client import basic_authorization, open_address, origin_of, without_user
from nexus_tasks.hostlib.model_shape import ModelShape, shape_of

CATALOGUE = Path("group_vars/all")
ON_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>[^:]+\.gguf)")
ON_WEB = re.compile(r"https?://")
TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")
TIMEOUT_SECONDS = 60
REDIRECTS = range(300, 400)
SPARE_BYTES = 1 << 16  # of an answer's length, for its headers


class _Plain(yaml.SafeLoader):
    """YAML as far as it is plain: values with a tag, as of Ansible's vault, are none."""


_Plain.add_multi_constructor("!", lambda loader, tag, node: None)


def catalogue_of(folder: Path = CATALOGUE) -> dict[str, dict[str, Any]]:
    """The profiles of the catalogue by name, the user's own in the place of the project's; none without a folder.

    Raises UsageError where a file can't be read.
    """
    files = [_read(path) for path in sorted(folder.glob("*.y*ml"))]
    found: dict[str, dict[str, Any]] = {}
    for variable in ("llama_models", "llama_own_models"):
        for models in (content.get(variable) for content in files):
            if isinstance(models, dict):
                found.update({str(name): dict(one) for name, one in models.items() if isinstance(one, dict)})
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = _Plain(path.read_text(encoding="utf-8")).get_single_data()
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or no such day
        raise UsageError(f"{path} can't be read: {str(error).splitlines()[0]}", hint="correct it") from error
    return content if isinstance(content, dict) else {}


def open_model(text: str, catalogue: Mapping[str, Mapping[str, Any]]) -> ModelShape:
    """The shape of a model.

    Args:
        text: a path, an address, ``REPO:FILE`` of the hub, or a profile's name; of a model in several files the first.

    Raises UsageError where there is no such model, or where it is damaged.
    """
    with _told():
        return _shape(*_found(text, catalogue))


def copy_headers(text: str, catalogue: Mapping[str, Mapping[str, Any]], folder: Path) -> list[tuple[str, int]]:
    """Write the headers of a model into a folder, and nothing of its tensors: name and whole size of each file.

    Names are those by which llama.cpp finds the files of one model; the rest is as in :func:`open_model`.
    """
    with _told():
        name, remote = _found(text, catalogue)
        files = _files(name, remote)
        sizes = []
        for number, header in enumerate(files, start=1):
            part = f"-{number:05}-of-{len(files):05}" if len(files) > 1 else ""
            content = remote.beginning(number - 1, header.data_start) if remote else _beginning(header)
            (folder / f"model{part}.gguf").write_bytes(content)
            sizes.append((f"model{part}.gguf", header.size_bytes))
        return sizes


def _beginning(header: gguf.Header) -> bytes:
    with Path(header.name).open("rb") as stream:
        return stream.read(header.data_start)


def _found(text: str, catalogue: Mapping[str, Mapping[str, Any]]) -> tuple[str, _Remote | None]:
    """The path of a file here, or what reads it elsewhere."""
    if ON_WEB.match(text):
        return text, _Remote(text, basic_authorization(text))
    path = _local(text)
    if path.is_file():
        return str(path), None
    if text in catalogue:
        return _of_profile(text, catalogue)
    on_hub = ON_HUB.fullmatch(text)
    if on_hub:
        return _of_hub(on_hub["repo"], on_hub["file"], "main")
    near = difflib.get_close_matches(text, catalogue, n=3, cutoff=0.4)
    known = f"profiles are {', '.join(near or sorted(catalogue)[:6])}, …" if catalogue else "there is no catalogue here"
    raise UsageError(
        f"there is no model {text}",
        hint=f"name a file, an http(s) address, REPO:FILE of the hub, or a profile: {known}",
    )


def place_of(text: str) -> str:
    """The absolute path, or the address without user, password and query, that a path or an address stands for."""
    if ON_WEB.match(text):
        return _shown(without_user(text))
    return os.path.abspath(_local(text))  # noqa: PTH100 - the place of a link, not of what it leads to


def _local(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # there is no such user
        return Path(text)


def _of_profile(name: str, catalogue: Mapping[str, Mapping[str, Any]]) -> tuple[str, _Remote | None]:
    profile = catalogue[name]
    file = first_file(profile, "file", "files")
    if "repo" in profile and file:
        return _of_hub(str(profile["repo"]), file, str(profile.get("revision", "main")))
    source = first_file(profile, "url", "urls") or str(profile.get("path") or "")
    if not source:
        raise UsageError(f"the profile {name} has no file that can be read here", hint="name its file instead")
    if ON_WEB.match(source):
        return source, _Remote(source, basic_authorization(source))
    path = _local(urllib.parse.unquote(urllib.parse.urlsplit(source).path) if source.startswith("file:") else source)
    if not path.is_file():
        raise UsageError(
            f"the profile {name} names {path}, which is not there", hint="correct the profile, or have the file there"
        )
    return str(path), None


def first_file(profile: Mapping[str, Any], one: str = "file", several: str = "files") -> str:
    """The first of a profile's files, or of what else it lists; nothing where it names none."""
    listed = profile.get(several)
    first = listed[0] if isinstance(listed, list) and listed else profile.get(one)
    return str(first.get(one, "") if isinstance(first, dict) else first or "")


def open_hub_file(repo: str, file: str, revision: str) -> ModelShape:
    """The shape of a model of the hub, of one in several files by the first. Raises UsageError."""
    with _told():
        return _shape(*_of_hub(repo, file, revision))


def _of_hub(repo: str, file: str, revision: str) -> tuple[str, _Remote | None]:
    try:
        url = huggingface_hub.hf_hub_url(repo, file, revision=revision, endpoint=os.environ.get("HF_ENDPOINT") or None)
    except huggingface_hub.errors.HFValidationError as error:
        raise UsageError(f"{repo} is no name of a hub repository", hint="name it as OWNER/NAME") from error
    token = os.environ.get("HF_TOKEN", "")
    return url, _Remote(url, f"Bearer {token}" if token.isprintable() and token else None)


class _Remote:
    """Reads headers of an address, and of those of a split model beside it."""

    def __init__(self, first: str, authorization: str | None) -> None:
        self._first, self._authorization = without_user(first), authorization
        self._addresses: list[str] = []
        try:
            origin_of(self._first)
        except ValueError as error:
            raise UsageError(f"{_shown(self._first)} is no address: {error}", hint="correct it") from error
        self._parts = urllib.parse.urlsplit(self._first)
        self._origin = f"{self._parts.scheme}://{self._parts.netloc}"

    @property
    def name(self) -> str:
        """The first file's: its address as people read it, without a query."""
        return self._origin + urllib.parse.unquote(self._parts.path)

    def header(self, name: str) -> gguf.Header:
        """The header of a file with such a name; its query is that of the first."""
        path = urllib.parse.quote(name.removeprefix(self._origin))
        url = urllib.parse.urlunsplit(self._parts._replace(path=path))
        self._addresses.append(url)
        _, size = self._range(url, 0, len(gguf.MAGIC))
        return gguf.parse_header(lambda offset, length: self._range(url, offset, length)[0], size, _shown(url))

    def beginning(self, number: int, length: int) -> bytes:
        """The first bytes of one of the files whose headers were read."""
        return self._range(self._addresses[number], 0, length)[0]

    def _range(self, url: str, offset: int, length: int) -> tuple[bytes, int]:
        """So many bytes, and the size of the whole file."""
        headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
        limit = length + SPARE_BYTES
        try:
            with open_address(
                url, headers, authorization=self._authorization, timeout=TIMEOUT_SECONDS, max_bytes=limit
            ) as answer:
                total = TOTAL.fullmatch(answer.headers.get("Content-Range") or "")
                if answer.status != http.client.PARTIAL_CONTENT or total is None:
                    raise UsageError(
                        f"{_shown(url)} is on a server that gives no ranges", hint="download it, and plan from the file"
                    )
                return answer.read(length), int(total[1])
        except urllib.error.HTTPError as error:
            error.close()
            raise UsageError(f"{_shown(url)} answers {error.code}", hint=_http_hint(error.code)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split())
            raise UsageError(
                f"{_shown(url)} can't be read: {reason}", hint="check the address, and that it is in reach"
            ) from error


def _http_hint(status: int) -> str:
    if status in (401, 403):
        return "set HF_TOKEN to a token that may read it, and accept the repository's terms"
    if status in REDIRECTS:
        return "it leads nowhere that may be asked: name the address at which the file is"
    if status == http.client.TOO_MANY_REQUESTS or status >= http.client.INTERNAL_SERVER_ERROR:
        return "try again later"
    return "correct the name of the repository or of the file"


def _shown(url: str) -> str:
    """An address without its query, which may be a signature."""
    return url.partition("?")[0]


def _files(name: str, remote: _Remote | None) -> tuple[gguf.Header, ...]:
    return gguf.read_model(remote.name, remote.header) if remote else gguf.read_model(name)


def _shape(name: str, remote: _Remote | None) -> ModelShape:
    return shape_of(_files(name, remote))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Have what is wrong with a model told as an error of the user's."""
    try:
        yield
    except gguf.GgufError as error:
        what, _, hint = str(error).rpartition("; ")
        raise UsageError(what or hint, hint=hint if what else "take another file") from error
    except OSError as error:
        raise UsageError(
            f"{error.filename or 'the model'} can't be read: {error.strerror}", hint="name a file that you may read"
        ) from error
