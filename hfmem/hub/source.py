"""From what the user typed to a model's facts, by the best source at hand.

The live Hub comes first. When it cannot be reached, refuses, or may not be asked (offline), the answer is, in this
order: facts stored by an earlier run, a download in the Hub's own cache, the shipped catalogue; the facts' `notice`
then says which, why, and how to get live data.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, assert_never

from hfmem.errors import AccessError, HfmemError, ModelNotFoundError, NetworkError, OfflineError, SourceError
from hfmem.hub.catalog import in_catalog, load_catalog_entry, suggest
from hfmem.hub.facts import FetchStats, ModelFacts
from hfmem.hub.options import FetchOptions
from hfmem.hub.reference import HubRef, LocalPath, parse_reference, with_revision
from hfmem.hub.settings import Settings, clean_token, find_token, read_settings, user_agent
from hfmem.hub.store import FactStore, is_commit
from hfmem.records import replace

if TYPE_CHECKING:
    from hfmem.hub.http import Client

_MAX_INFO_BYTES = 8 << 20
#: files of the default set: a reference to one of them means the model
_DEFAULT_FILE = r"(model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin)(\.index\.json)?"


_OFFLINE_FLAG = "--offline: leave it out for live data"
_OFFLINE_ENVIRONMENT = "offline mode; unset HF_HUB_OFFLINE for live data"


def load_model(
    ref_text: str | os.PathLike[str], *, revision: str | None = None, options: FetchOptions | None = None
) -> ModelFacts:
    """The facts of the model that `ref_text` names, at `revision` where the text names none; a path object is local.

    Raises:
        UsageError: the text, the revision or an environment variable cannot be used.
        SourceError: the model cannot be read; the subclasses say why.
    """
    options = options or FetchOptions()
    settings = read_settings()
    if isinstance(ref_text, str):
        ref = parse_reference(ref_text, endpoint=settings.endpoint, exists=os.path.exists)
    else:
        ref = LocalPath(os.fspath(ref_text))
    ref = with_revision(ref, revision)
    match ref:
        case LocalPath():
            from hfmem.hub.local import load_local

            facts = _with_files(load_local(ref.path))
            if isinstance(ref_text, str) and _is_like_a_repo_id(ref.path):
                notice = f"from the local path {ref.path}, which comes before the Hub's {ref.path} (hf://{ref.path})"
                facts = replace(facts, notice="; ".join(filter(None, (notice, facts.notice))))
            return facts
        case HubRef():
            return _with_files(_load_hub(ref, settings, options))
        case _:
            assert_never(ref)


def _with_files(facts: ModelFacts) -> ModelFacts:
    """Of a GGUF model, which files it is: a repository has many."""
    if facts.checkpoint is None or facts.checkpoint.format != "gguf":
        return facts
    from hfmem.hub.gguf import notice

    return replace(facts, notice=_join(facts.notice, notice(facts.weight_files)))


def _load_hub(ref: HubRef, settings: Settings, options: FetchOptions) -> ModelFacts:
    if ref.file is not None and re.fullmatch(_DEFAULT_FILE, ref.file):
        ref = replace(ref, file=None)
    store = FactStore(settings.facts_dir, read=not options.no_cache, write=not options.no_cache)
    if settings.offline or options.offline:
        facts = _stored(ref, settings, store, _OFFLINE_FLAG if options.offline else _OFFLINE_ENVIRONMENT)
        if facts is not None:
            return facts
        raise OfflineError(f"offline mode, and {_nowhere(ref)}")
    try:
        return _load_live(ref, settings, store, options)
    except (AccessError, NetworkError, ModelNotFoundError) as error:
        reason = _reason(error, ref)
        facts = None if reason is None else _stored(ref, settings, store, reason)
        if facts is not None:
            return facts
        if isinstance(error, ModelNotFoundError) and "has no revision" not in str(error):
            kind = _other_type(ref, options)
            if kind is not None:
                raise ModelNotFoundError(f"{ref.repo_id} is a {kind} on the Hub, not a model") from None
            raise type(error)(str(error) + _did_you_mean(ref)) from None
        if isinstance(error, NetworkError):
            unnamed = ref.repo_id not in str(error)
            raise NetworkError(f"{error}; {_nowhere(ref)}" if unnamed else f"{error}{_did_you_mean(ref)}") from None
        raise


def _load_live(ref: HubRef, settings: Settings, store: FactStore, options: FetchOptions) -> ModelFacts:
    revision = ref.revision or "main"
    if is_commit(revision) and not options.refresh and not options.no_cache:
        facts = _stored(ref, settings, store, None)  # a commit never changes: nothing to ask
        if facts is not None and facts.source == "cache":
            return facts
    client = open_client(options, quick=_has_stored(ref, settings, store))
    try:
        from hfmem.hub.live import Live

        return Live(client, settings, store, ref, options).load()
    finally:
        client.close()


def _other_type(ref: HubRef, options: FetchOptions) -> str | None:
    """Whether the Hub has a dataset or a Space of this name; a server that does not answer says nothing."""
    if "/" not in ref.repo_id:
        return None
    client = open_client(options, quick=True)
    try:
        for route, kind in (("datasets", "dataset"), ("spaces", "Space")):
            url = f"{read_settings().endpoint}/api/{route}/{ref.repo_id}"
            if client.get(url, max_bytes=_MAX_INFO_BYTES, retries=0).status == 200:
                return kind
    except SourceError:
        pass
    finally:
        client.close()
    return None


def open_client(options: FetchOptions, *, quick: bool) -> Client:
    """Connections to the Hub for one model; `quick` where a stored answer exists. The caller closes it."""
    from hfmem.hub.connection import origin_of
    from hfmem.hub.http import Client, Deadline

    settings = read_settings()
    return Client(
        home=origin_of(settings.endpoint),
        deadline=Deadline(options.deadline or settings.deadline),
        token=_token(options),
        agent=user_agent(),
        timeout=settings.download_timeout,
        quick=quick,
    )


def _token(options: FetchOptions) -> str | None:
    match options.token:
        case str(token):
            return clean_token(token)
        case False:
            return None
        case _:
            return find_token()


def _stored(ref: HubRef, settings: Settings, store: FactStore, reason: str | None) -> ModelFacts | None:
    """The best answer that needs no network; `reason` says why the Hub was not asked, None where it need not be."""
    from hfmem.hub.hfcache import cached_commit, snapshot_facts, snapshot_gguf

    revision = ref.revision or "main"
    because = "" if reason is None else f" ({reason})"
    hit = FetchStats(cache_hit=True)
    commit = store.commit_of(settings.endpoint, ref.repo_id, revision)
    facts = store.load(ref.repo_id, commit, ref.part) if commit else None
    if facts is not None:
        notice = f"from the stored facts of commit {str(commit)[:7]}{because}" if because else None
        return replace(facts, notice=_join(notice, facts.notice), stats=hit)
    commit = cached_commit(settings.hub_cache, ref.repo_id, revision)
    facts = None
    if commit and ref.part is None:
        facts = snapshot_facts(settings.hub_cache, ref.repo_id, commit)
    if commit and facts is None and (ref.file is None or ref.file.lower().endswith(".gguf")):
        facts = snapshot_gguf(settings.hub_cache, ref.repo_id, commit, ref.file, ref.variant)
    if facts is not None:
        notice = f"from the Hugging Face cache, commit {str(commit)[:7]}{because}" if because else None
        return replace(facts, notice=_join(notice, facts.notice), stats=hit)
    facts = load_catalog_entry(ref.repo_id) if ref.part is None else None
    if facts is not None and (revision == "main" or revision == facts.revision):
        notice = f"from the shipped catalogue of {facts.date}{because}"
        return replace(facts, notice=_join(notice, facts.notice), stats=hit)
    return None


def _has_stored(ref: HubRef, settings: Settings, store: FactStore) -> bool:
    """Whether there may be a stored answer; cheaper than reading it."""
    from hfmem.hub.hfcache import cached_commit

    revision = ref.revision or "main"
    if not is_commit(revision) and store.commit_of(settings.endpoint, ref.repo_id, revision) is not None:
        return True
    if ref.part is not None:
        return False
    known = cached_commit(settings.hub_cache, ref.repo_id, revision) is not None
    return known or (revision == "main" and in_catalog(ref.repo_id))


def _reason(error: HfmemError, ref: HubRef) -> str | None:
    """Why live data is not to be had, as a stored answer's notice says it; None when no stored answer should be given."""
    from hfmem.hub.responses import HiddenModelError

    match error:
        case AccessError() if "is gated" in str(error) and "token's user" not in str(error):
            return "the repo is gated: `hf auth login` or HF_TOKEN for live data"
        case AccessError() | NetworkError():
            return error.message
        case HiddenModelError():
            return "the Hub does not show the repo to an unknown user: `hf auth login` or HF_TOKEN for live data"
        case _:
            return None


def _nowhere(ref: HubRef) -> str:
    return f"{ref.repo_id} is in no cache here and not in the shipped catalogue{_did_you_mean(ref)}"


def _did_you_mean(ref: HubRef) -> str:
    name = suggest(ref.repo_id)
    return f"; did you mean {name}?" if name else ""


def _is_like_a_repo_id(path: str) -> bool:
    return not path.startswith((".", "/", "~")) and "\\" not in path and path.count("/") <= 1 and "." not in path[-12:]


def _join(first: str | None, second: str | None) -> str | None:
    return "; ".join(part for part in (first, second) if part) or None
