"""Every error hfmem raises on purpose, each with the exit code the command line gives it.

    HfmemError
    ├── UsageError                  2  what the user typed is not usable
    ├── SourceError                 3  the model could not be read
    │   ├── ModelNotFoundError         no such repo, revision or path
    │   ├── AccessError                gated or private, and no token that opens it
    │   ├── NetworkError               unreachable, timed out, too many retries
    │   ├── OfflineError               offline mode and nothing stored
    │   ├── MissingFileError           the repo is there, a file it must have is not
    │   │   └── AdapterError               it holds an adapter (PEFT), not a model
    │   └── FormatError                a file is there and cannot be parsed
    ├── DoesNotFitError             1  a device has less memory than what was to be put on it
    └── UnsupportedError            4  the model was read, and hfmem will not guess
        ├── UnknownArchitectureError   model_type (or a value of it) no rule covers
        ├── MissingKeyError            config.json lacks a key that its family needs
        └── ContradictionError         two facts of the model exclude each other

The command line tells an `HfmemError` on one line, which says what, where, and what to do next. Anything else is a bug, and is
called one (exit code 4; `HFMEM_DEBUG=1` shows where).
"""

from __future__ import annotations

from typing import ClassVar


class HfmemError(Exception):
    """Base of all deliberate errors. `code` is stable and goes into JSON; `exit_code` is the process status."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 3

    @property
    def message(self) -> str:
        """The one-line text shown to the user."""
        return " ".join(str(self).split())


class UsageError(HfmemError):
    """A flag, reference or size that cannot be used."""

    code = "usage"
    exit_code = 2


class SourceError(HfmemError):
    """The model could not be read."""

    code = "source"
    exit_code = 3


class ModelNotFoundError(SourceError):
    """No such repository, revision, file or folder."""

    code = "not_found"


class AccessError(SourceError):
    """The repository is gated or private and no token at hand opens it."""

    code = "access"


class NetworkError(SourceError):
    """The endpoint could not be reached, or kept failing until the retries or the deadline ran out."""

    code = "network"


class OfflineError(SourceError):
    """Offline mode, and neither the caches nor the catalogue hold the model."""

    code = "offline"


class MissingFileError(SourceError):
    """The repository exists and lacks a file it must have (config.json, a shard that the index names)."""

    code = "missing_file"


class AdapterError(MissingFileError):
    """A repository of an adapter and not of a model. `base` is the model that it names as its own."""

    def __init__(self, message: str, base: str | None = None) -> None:
        super().__init__(message)
        self.base = base


class FormatError(SourceError):
    """A file cannot be parsed: not JSON, truncated, zero bytes, a header that breaks its format's rules."""

    code = "format"


class DoesNotFitError(HfmemError):
    """A device has less free memory than what was to be allocated on it."""

    code = "does_not_fit"
    exit_code = 1


class UnsupportedError(HfmemError):
    """The model was read and is not supported."""

    code = "unsupported"
    exit_code = 4


class UnknownArchitectureError(UnsupportedError):
    """No rule covers this model_type, or this value of one of its keys."""

    code = "unknown_architecture"


class MissingKeyError(UnsupportedError):
    """config.json lacks a key that the model's family needs and that no table of class defaults supplies."""

    code = "missing_key"


class ContradictionError(UnsupportedError):
    """Two facts of one model exclude each other (a header that lies, an index that names files outside the repo)."""

    code = "contradiction"
