"""What the Hub's answers mean: its X-Error-Code and status → one of our errors, or "the file is not there"."""

from __future__ import annotations

from typing import NoReturn

from hfmem.errors import AccessError, ModelNotFoundError, NetworkError
from hfmem.hub.connection import origin_of, shown
from hfmem.hub.http import Response

_BAD_TOKEN = "Invalid credentials in Authorization header"
_DISABLED = "Access to this resource is disabled."


def is_missing_file(response: Response) -> bool:
    """Whether the repo and its revision are there and the file is not."""
    if response.status != 404:
        return False
    code = response.header("x-error-code")
    return code == "EntryNotFound" or (code is None and response.header("x-repo-commit") is not None)


def is_plain_404(response: Response) -> bool:
    """A 404 that does not say what was not found, as servers other than the Hub give."""
    return response.status == 404 and response.header("x-error-code") is None


def fail(response: Response, repo_id: str, revision: str, *, endpoint: str, has_token: bool) -> NoReturn:
    """Raises the error that an answer of status 400 or more stands for, as huggingface_hub's `hf_raise_for_status` reads it.

    Raises:
        ModelNotFoundError: no such repo or revision (the Hub answers 401 for a repo that an unknown user may not know
        of). AccessError: gated, disabled, a token that is not valid or not enough. NetworkError: anything else.
    """
    status = response.status
    code = response.header("x-error-code")
    said = clean(response.header("x-error-message"))
    page = f"{shown(endpoint)}/{repo_id}"
    if code == "RevisionNotFound":
        raise ModelNotFoundError(f"{repo_id} has no revision {revision!r} (branch, tag or commit)")
    if code == "GatedRepo":
        if has_token:
            raise AccessError(f"{repo_id} is gated and this token's user is not on its list: ask for access at {page}")
        raise AccessError(f"{repo_id} is gated: accept its licence at {page}, then `hf auth login` or set HF_TOKEN")
    if code == "DisabledRepo" or said == _DISABLED:
        raise AccessError(f"{repo_id} was disabled by the Hub: {page}")
    if status == 401 and said == _BAD_TOKEN:
        raise AccessError("the Hub refuses the token: it is wrong or has expired; `hf auth login` or set HF_TOKEN")
    if code == "RepoNotFound" or status == 401 or (status == 404 and code is None):
        raise not_found(repo_id, endpoint, has_token=has_token, unauthorized=status == 401)
    if status == 403:
        raise AccessError(f"{repo_id} may not be read with this token{': ' + said if said else ''} ({page})")
    host = origin_of(response.url)
    raise NetworkError(f"{host} answered {status} for {repo_id}{': ' + said if said else ''}")


class HiddenModelError(ModelNotFoundError):
    """The Hub answered 401: the repo does not exist, or it does and an unknown user may not know."""


def not_found(repo_id: str, endpoint: str, *, has_token: bool, unauthorized: bool) -> ModelNotFoundError:
    """The error for a repo that does not exist, as far as this user may know."""
    where = "on the Hub" if endpoint == "https://huggingface.co" else f"at {shown(endpoint)}"
    private = "this token may not read it" if has_token else "`hf auth login` or HF_TOKEN if it is private"
    error = HiddenModelError if unauthorized else ModelNotFoundError
    return error(f"{repo_id} is not {where} ({private})")


def clean(text: str | None) -> str:
    """A server's message as harmless text of one line: no control characters, at most 300 of them."""
    if not text:
        return ""
    return "".join(character if character.isprintable() else " " for character in text)[:300].strip()
