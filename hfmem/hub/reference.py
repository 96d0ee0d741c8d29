"""What the user typed → where the model is. Pure text rules; whether a path exists is asked through a function."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from hfmem.errors import UsageError
from hfmem.records import dataclass

DEFAULT_ENDPOINT = "https://huggingface.co"

#: hosts whose web addresses name models, besides the host of HF_ENDPOINT
_HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "hub-ci.huggingface.co"})
_OTHER_TYPES = {"datasets": "dataset", "spaces": "Space", "kernels": "kernel", "buckets": "bucket"}
_FILE_ROUTES = frozenset({"blob", "resolve", "raw", "blame"})
_WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth")

#: other files that a reference to a place inside a repo may name
_OTHER_SUFFIXES = (".json", ".md", ".txt", ".py", ".model", ".onnx")

# The rules of huggingface_hub's validate_repo_id: [namespace/]name, ASCII word characters, '-' and '.', at most 96 each.
_REPO_ID = r"(\b[\w\-.]{1,96}\b/)?\b[\w\-.]{1,96}\b"
_SPECIAL_REF = r"refs/(?:pr/\d+|convert/[\w.\-]+)(?=/|$)"
_WINDOWS_PATH = r"^[A-Za-z]:[\\/]|\\"


@dataclass(frozen=True, slots=True)
class HubRef:
    """A model repository on the Hub, at `revision` (None: `main`); `file` or a GGUF `variant` narrows it to one file."""

    repo_id: str
    revision: str | None = None
    file: str | None = None
    variant: str | None = None

    @property
    def part(self) -> str | None:
        """What narrows the repo, as a key: a file, or `:` and a variant. None: the repo's own model."""
        return self.file if self.variant is None else f":{self.variant.upper()}"


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A folder or a file on this machine, as typed (`~` not yet expanded)."""

    path: str


Reference = HubRef | LocalPath


def _never(_path: str) -> bool:
    return False


def parse_reference(
    text: str, *, endpoint: str = DEFAULT_ENDPOINT, exists: Callable[[str], bool] = _never
) -> Reference:
    """The place that `text` names.

    Precedence: an address (`https://…`, `hf://…`) is the Hub's; `./x`, `../x`, `/x`, `~/x` and Windows paths are
    always local; a word for which `exists` answers True is local too, as in transformers, so `hf://org/name` reaches
    the Hub past a folder of that name; what is left is a repo id. `endpoint` is HF_ENDPOINT: its web addresses are
    understood as well.

    Raises:
        UsageError: nothing usable, another repo type, or a repo id against the Hub's rules.
    """
    text = text.strip()
    if not text:
        raise UsageError("the model is empty; give org/name, a Hub address, or a local path")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise UsageError(f"{text!r} holds control characters; give org/name, a Hub address, or a local path")
    if text.startswith("hf://"):
        return _from_uri(text.removeprefix("hf://"), text)
    if text.startswith("file://"):
        return LocalPath(unquote(urlsplit(text).path))
    if "://" in text:
        return _from_url(text, endpoint)
    if text in (".", "..") or text.startswith(("./", "../", "/", "~")) or re.search(_WINDOWS_PATH, text):
        return LocalPath(text)
    if exists(text):
        return LocalPath(text)
    if text.split("/", 1)[0].lower() in _hosts(endpoint) and "/" in text:
        return _from_url("https://" + text, endpoint)
    if text.lower().endswith(_WEIGHT_SUFFIXES) and text.count("/") < 2:
        return LocalPath(text)
    return _from_uri(text, text)


def with_revision(ref: Reference, revision: str | None) -> Reference:
    """`ref` at the revision of the `--revision` flag.

    Raises:
        UsageError: the reference names another revision, or is local.
    """
    if revision is None:
        return ref
    match ref:
        case LocalPath():
            raise UsageError(f"--revision {revision} needs a Hub model; {ref.path} is local")
        case HubRef():
            if ref.revision not in (None, revision):
                raise UsageError(f"{ref.repo_id}@{ref.revision} and --revision {revision} exclude each other")
            return HubRef(ref.repo_id, _revision(revision, revision), ref.file, ref.variant)


def _hosts(endpoint: str) -> frozenset[str]:
    parts = urlsplit(endpoint)
    return _HUB_HOSTS | {name.lower() for name in (parts.hostname, parts.netloc) if name}


def _from_url(text: str, endpoint: str) -> HubRef:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https"):
        raise UsageError(
            f"{text!r}: {parts.scheme}:// is not understood; give org/name, a Hub address, or a local path"
        )
    host = (parts.hostname or "").lower()
    if host not in _hosts(endpoint):
        raise UsageError(
            f"{host or text} is not the Hub; for a mirror set HF_ENDPOINT=https://{host} and give org/name"
        )
    path = parts.path
    base = urlsplit(endpoint)
    prefix = base.path.rstrip("/")
    if prefix and host == (base.hostname or "").lower() and path.startswith(prefix + "/"):
        path = path.removeprefix(prefix)
    segments = [segment for segment in path.split("/") if segment]
    if segments[:2] == ["api", "models"]:
        segments = segments[1:]
    return _from_segments(segments, text)


def _from_segments(segments: list[str], text: str) -> HubRef:
    """A repo from the path of a web address, still percent-encoded: `[models/]org/name[/route/revision[/file]]`."""
    if segments and segments[0] in _OTHER_TYPES:
        raise UsageError(f"{text!r} is a {_OTHER_TYPES[segments[0]]}, not a model")
    if segments and segments[0] == "models":
        segments = segments[1:]
    if not segments:
        raise UsageError(f"{text!r} names no model; expected {DEFAULT_ENDPOINT}/org/name")
    routes = _FILE_ROUTES | {"tree", "commit", "commits", "discussions", "settings", "revision"}
    split = next((at for at in (1, 2) if len(segments) > at and segments[at] in routes), min(len(segments), 2))
    repo_id, rest = "/".join(unquote(segment) for segment in segments[:split]), segments[split:]
    repo_id, at, revision = repo_id.partition("@")
    if at:
        return HubRef(_repo_id(repo_id, text), _revision(revision, text))
    repo_id, colon, variant = repo_id.partition(":")  # as Ollama takes it: hf.co/org/name:Q4_K_M
    if colon and not rest:
        return HubRef(_repo_id(repo_id, text), None, None, variant or None)
    if not rest or rest[0] in ("discussions", "settings", "commits"):
        return HubRef(_repo_id(repo_id, text))
    if rest[0] not in routes:
        raise UsageError(f"{text!r}: expected {DEFAULT_ENDPOINT}/{repo_id}[/tree/revision]")
    tail = "/".join(rest[1:])
    special = re.match(_SPECIAL_REF, tail, re.ASCII)
    revision = special.group() if special else unquote(rest[1]) if len(rest) > 1 else "main"
    inside = unquote(tail[special.end() :].lstrip("/") if special else "/".join(rest[2:]))
    if rest[0] not in _FILE_ROUTES and inside:
        raise UsageError(f"{text!r} is a folder inside {repo_id}; give the repo, or one file of that folder")
    return HubRef(_repo_id(repo_id, text), _revision(revision, text), _weight_file(inside))


def _from_uri(body: str, text: str) -> HubRef:
    """`[models/]org/name[@revision][:variant][/file]`, the body of hf:// or a plain repo id."""
    prefix, slash, rest = body.partition("/")
    if slash and prefix in _OTHER_TYPES and "/" in rest:
        raise UsageError(f"{text!r} is a {_OTHER_TYPES[prefix]}, not a model")
    if slash and prefix == "models":
        body = rest
    before, at, after = body.partition("@")
    if at:
        special = re.match(_SPECIAL_REF, after, re.ASCII)
        if special:
            revision, file = special.group(), after[special.end() :]
        elif text.startswith("hf://") or after.lower().endswith((*_WEIGHT_SUFFIXES, *_OTHER_SUFFIXES)):
            revision, _, file = after.partition("/")
        else:
            revision, file = after, ""  # `org/name@feature/x`: a branch may hold slashes
        revision, _, variant = revision.partition(":")
        file = file.lstrip("/")
        if ":" in file:
            file, _, variant = file.partition(":")
        return HubRef(_repo_id(before, text), _revision(unquote(revision), text), _weight_file(file), variant or None)
    segments = before.split("/")
    if len(segments) > 2:
        if segments[2] in _FILE_ROUTES or segments[2] == "tree":
            return _from_segments(segments, text)
        if before.lower().endswith(_WEIGHT_SUFFIXES):
            return HubRef(_repo_id("/".join(segments[:2]), text), None, "/".join(segments[2:]))
        if not text.startswith("hf://"):
            raise UsageError(f"{text!r} is neither org/name nor a local path that exists")
    repo_id, _, variant = "/".join(segments[:2]).partition(":")
    return HubRef(_repo_id(repo_id, text), None, _weight_file("/".join(segments[2:])), variant or None)


def _weight_file(path: str) -> str | None:
    """`path` when it narrows the model to a weight file; the page of config.json or README.md means the whole repo."""
    return path if path.lower().endswith(_WEIGHT_SUFFIXES) else None


def _revision(revision: str, text: str) -> str:
    # What git's check-ref-format forbids; it keeps a revision from reaching other paths of the server.
    if not revision or ".." in revision or revision.startswith(("/", "-")) or re.search(r"[\s~^:?*\[\\]", revision):
        raise UsageError(f"{text!r}: {revision!r} cannot be a revision; expected a branch, a tag or a commit")
    return revision


def _repo_id(repo_id: str, text: str) -> str:
    if not re.fullmatch(_REPO_ID, repo_id, re.ASCII) or "--" in repo_id or ".." in repo_id or repo_id.endswith(".git"):
        raise UsageError(
            f"{text!r} is no repo id (org/name of letters, digits, '-', '_' and '.', at most 96 each) nor a path that exists"
        )
    return repo_id
