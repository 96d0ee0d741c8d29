"""huggingface_hub's environment conventions, read once a call.

`huggingface_hub.constants` costs about 15 ms to import and reads little but the environment, which is read here by the same
rules; where a program has it loaded already, what it was fixed to then are the defaults. `get_token` costs 130 ms, so its two
usual sources are read here and it is called for the unusual ones only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from hfmem.errors import AccessError, UsageError
from hfmem.records import dataclass

_HOME_ENDPOINT = "https://huggingface.co"
#: the switch to the Hub on which huggingface_hub itself is tested
_STAGING = "HUGGINGFACE_CO_STAGING"
_STAGING_ENDPOINT = "https://hub-ci.huggingface.co"
#: seconds for a small file's headers, and between two pieces of a body
_ETAG_TIMEOUT = _DOWNLOAD_TIMEOUT = 10

_TRUE = frozenset({"1", "ON", "YES", "TRUE"})
OFFICIAL_ENDPOINTS = frozenset({"https://huggingface.co", "https://hf.co", "https://hub-ci.huggingface.co"})

#: seconds a whole model may take, unless HFMEM_DEADLINE or the caller says otherwise
DEFAULT_DEADLINE = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how to read models: addresses, folders, time limits in seconds."""

    endpoint: str
    offline: bool
    hub_cache: str
    facts_dir: str
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
    known: str = _loaded("ENDPOINT", _STAGING_ENDPOINT if is_true(env.get(_STAGING)) else _HOME_ENDPOINT)
    endpoint = (env.get("HF_ENDPOINT") or known).rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise UsageError(f"HF_ENDPOINT={endpoint!r} must start with https:// or http://")
    offline = _loaded("HF_HUB_OFFLINE", False) or is_true(env.get("HF_HUB_OFFLINE") or env.get("TRANSFORMERS_OFFLINE"))
    return Settings(
        endpoint=endpoint,
        offline=offline,
        hub_cache=_hub_cache(env),
        facts_dir=_facts_dir(env),
        etag_timeout=_seconds(env, "HF_HUB_ETAG_TIMEOUT", _loaded("HF_HUB_ETAG_TIMEOUT", _ETAG_TIMEOUT)),
        download_timeout=_seconds(
            env, "HF_HUB_DOWNLOAD_TIMEOUT", _loaded("HF_HUB_DOWNLOAD_TIMEOUT", _DOWNLOAD_TIMEOUT)
        ),
        deadline=_seconds(env, "HFMEM_DEADLINE", DEFAULT_DEADLINE),
    )


def _loaded(name: str, default: Any) -> Any:
    """A constant of huggingface_hub where the program has it loaded."""
    return getattr(sys.modules.get("huggingface_hub.constants"), name, default)


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
    env = os.environ
    if _loaded("HF_HUB_DISABLE_IMPLICIT_TOKEN", False) or is_true(env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        return None
    if env.get("HF_OIDC_RESOURCE") or "google.colab" in sys.modules:
        return _token_of_huggingface_hub()
    token = clean_token(env.get("HF_TOKEN") or env.get("HUGGING_FACE_HUB_TOKEN"))
    if token is not None:
        return token
    path = _token_path(env)
    try:
        token = clean_token(_read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return None
    if token is not None and _has_refresh_token(os.path.join(os.path.dirname(path), "stored_tokens")):
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


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read(1 << 20)


def _has_refresh_token(path: str) -> bool:
    try:
        return "refresh_token" in _read_text(path)
    except (OSError, UnicodeDecodeError):
        return False


def _path(text: str) -> str:
    return os.path.expandvars(os.path.expanduser(text))


def _cache_home(env: Mapping[str, str]) -> str:
    return _path(env.get("XDG_CACHE_HOME") or "~/.cache")


def _in_hf_home(env: Mapping[str, str], name: str, constant: str) -> str:
    """A path in the Hub's folder; where no variable names that, huggingface_hub's own, if it is loaded."""
    if env.get("HF_HOME"):
        return os.path.join(_path(env["HF_HOME"]), name)
    ours = os.path.join(_cache_home(env), "huggingface", name)
    return ours if env.get("XDG_CACHE_HOME") else str(_loaded(constant, ours))


def _hub_cache(env: Mapping[str, str]) -> str:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(name):
            return _path(env[name])
    return _in_hf_home(env, "hub", "HF_HUB_CACHE")


def _token_path(env: Mapping[str, str]) -> str:
    if is_true(env.get(_STAGING)):
        return _path("~/.cache/huggingface_staging/token")
    return _path(env["HF_TOKEN_PATH"]) if env.get("HF_TOKEN_PATH") else _in_hf_home(env, "token", "HF_TOKEN_PATH")


def _facts_dir(env: Mapping[str, str]) -> str:
    return _path(env["HFMEM_CACHE"]) if env.get("HFMEM_CACHE") else os.path.join(_cache_home(env), "hfmem")


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
