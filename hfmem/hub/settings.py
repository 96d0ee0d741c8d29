"""huggingface_hub's environment conventions, read once a call.

`huggingface_hub.constants` supplies the defaults; the environment is looked at again, because constants are fixed when first
imported. `get_token` costs 130 ms, so its two usual sources are read here and it is called for the unusual ones only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from hfmem.errors import AccessError, UsageError
from hfmem.hub.reference import DEFAULT_ENDPOINT
from hfmem.records import dataclass

_TRUE = frozenset({"1", "ON", "YES", "TRUE"})
OFFICIAL_ENDPOINTS = frozenset({"https://huggingface.co", "https://hf.co", "https://hub-ci.huggingface.co"})

#: seconds a whole model may take, unless HFMEM_DEADLINE or the caller says otherwise
DEFAULT_DEADLINE = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how to read models: addresses, folders, time limits in seconds."""

    endpoint: str
    offline: bool
    hub_cache: Path
    facts_dir: Path
    etag_timeout: float
    download_timeout: float
    deadline: float

    @property
    def official(self) -> bool:
        """Whether the endpoint is Hugging Face's own Hub."""
        return self.endpoint in OFFICIAL_ENDPOINTS


def read_settings(env: Mapping[str, str] | None = None) -> Settings:
    """The settings of this moment.

    Raises:
        UsageError: a variable holds what it cannot hold.
    """
    env = os.environ if env is None else env
    try:
        from huggingface_hub import constants
    except ValueError:  # constants turns timeouts into integers when it is imported
        names = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
        said = " ".join(f"{name}={env[name][:80]!r}" for name in names if name in env)
        raise UsageError(f"{said}: seconds must be a whole number") from None

    endpoint = (env.get("HF_ENDPOINT") or constants.ENDPOINT or DEFAULT_ENDPOINT).rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise UsageError(f"HF_ENDPOINT={endpoint[:200]!r} must start with https:// or http://")
    offline = constants.HF_HUB_OFFLINE or is_true(env.get("HF_HUB_OFFLINE") or env.get("TRANSFORMERS_OFFLINE"))
    return Settings(
        endpoint=endpoint,
        offline=offline,
        hub_cache=_hub_cache(env, constants.HF_HUB_CACHE),
        facts_dir=_facts_dir(env),
        etag_timeout=_seconds(env, "HF_HUB_ETAG_TIMEOUT", constants.HF_HUB_ETAG_TIMEOUT),
        download_timeout=_seconds(env, "HF_HUB_DOWNLOAD_TIMEOUT", constants.HF_HUB_DOWNLOAD_TIMEOUT),
        deadline=_seconds(env, "HFMEM_DEADLINE", DEFAULT_DEADLINE),
    )


def is_true(value: str | None) -> bool:
    """The Hub's reading of a switch in the environment."""
    return value is not None and value.upper() in _TRUE


def user_agent() -> str:
    """`hfmem/0.1.0; hf_hub/2.4.0; python/3.11.9`, in the form of huggingface_hub."""
    import huggingface_hub

    import hfmem

    origin = os.environ.get("HF_HUB_USER_AGENT_ORIGIN")
    python = ".".join(str(part) for part in sys.version_info[:3])
    version = getattr(hfmem, "__version__", "0")
    agent = f"hfmem/{version}; hf_hub/{huggingface_hub.__version__}; python/{python}"
    return _header_value(agent + (f"; origin/{origin}" if origin else ""), "HF_HUB_USER_AGENT_ORIGIN")


def find_token() -> str | None:
    """The token huggingface_hub would send: HF_TOKEN, else the file that `hf auth login` saved; None when not logged in.

    Raises:
        UsageError: the token holds characters that no header can carry, or its file cannot be read.
    """
    from huggingface_hub import constants

    env = os.environ
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or is_true(env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        return None
    if env.get("HF_OIDC_RESOURCE") or "google.colab" in sys.modules:
        return _token_of_huggingface_hub()
    token = clean_token(env.get("HF_TOKEN") or env.get("HUGGING_FACE_HUB_TOKEN"))
    if token is not None:
        return token
    path = _token_path(env, constants.HF_TOKEN_PATH)
    try:
        token = clean_token(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:  # huggingface_hub lets these through as they are
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(
            f"the token file {path} cannot be read ({reason}): `hf auth login`, HF_TOKEN, or HF_HUB_DISABLE_IMPLICIT_TOKEN=1"
        ) from None
    if token is not None and _has_refresh_token(path.with_name("stored_tokens")):
        # an OAuth login: the token may need renewing, which is huggingface_hub's to do
        return _token_of_huggingface_hub()
    return token


def clean_token(token: str | None) -> str | None:
    """`token` without line breaks and outer blanks; None when nothing is left.

    Raises:
        UsageError: characters that no header can carry.
    """
    if token is None:
        return None
    token = token.replace("\r", "").replace("\n", "").strip()
    return _header_value(token, "HF_TOKEN") or None


def _header_value(text: str, name: str) -> str:
    if not text.isascii() or any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise UsageError(f"{name} holds characters that cannot be sent in a header")
    return text


def _token_of_huggingface_hub() -> str | None:
    from huggingface_hub import get_token

    try:
        return get_token()
    except Exception as error:  # an exchange over the network, which can fail in any way
        raise AccessError(f"huggingface_hub cannot supply the token: {error}") from None


def _has_refresh_token(path: Path) -> bool:
    try:
        return "refresh_token" in path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _path(text: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(text)))


def _hf_home(env: Mapping[str, str]) -> Path | None:
    if env.get("HF_HOME"):
        return _path(env["HF_HOME"])
    if env.get("XDG_CACHE_HOME"):
        return _path(env["XDG_CACHE_HOME"]) / "huggingface"
    return None


def _hub_cache(env: Mapping[str, str], default: str) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(name):
            return _path(env[name])
    home = _hf_home(env)
    return Path(default) if home is None else home / "hub"


def _token_path(env: Mapping[str, str], default: str) -> Path:
    if env.get("HF_TOKEN_PATH"):
        return _path(env["HF_TOKEN_PATH"])
    home = _hf_home(env)
    return Path(default) if home is None else home / "token"


def _facts_dir(env: Mapping[str, str]) -> Path:
    if env.get("HFMEM_CACHE"):
        return _path(env["HFMEM_CACHE"])
    base = env.get("XDG_CACHE_HOME")
    return (_path(base) if base else Path(os.path.expanduser("~")) / ".cache") / "hfmem"


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return float(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value == 0 and name.startswith("HF_"):  # which means the default there
        return float(default)
    if not 0 < value < 1e7:
        raise UsageError(f"{name}={text!r} is not a positive number of seconds")
    return value
