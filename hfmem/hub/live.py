"""One model from the Hub, in as few requests and round trips as it takes.

Known before (a commit is stored for the revision): one small request for config.json; its X-Repo-Commit tells whether
the stored facts hold. Else three at once: config.json; every shard's header by the safetensors-metadata route (which
serves `main` of the official Hub; where it is known to be missing, the weight index); and the front of
`model.safetensors`. One of the last two answers, and a single-file or sharded model is complete after it. Where
neither the route nor the single file exists: the index, then one ranged request a shard. A GGUF model (named by a
variant or a file, or all that the repo holds): one listing where a choice is to be made, then ranged requests for the
headers of its parts. Without headers (`no_headers`): config.json and the list of files, at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from hfmem.checkpoint.index import MAX_INDEX_BYTES
from hfmem.checkpoint.shard_stream import ShardStream
from hfmem.errors import FormatError, NetworkError
from hfmem.hub.facts import ModelFacts, gguf_facts
from hfmem.hub.files import DEFAULT_GUESS, MAX_CONFIG_BYTES, parse_object
from hfmem.hub.hfcache import snapshot_facts
from hfmem.hub.http import Client, Response
from hfmem.hub.options import FetchOptions
from hfmem.hub.reference import HubRef
from hfmem.hub.remote import RemoteFiles
from hfmem.hub.responses import is_plain_404
from hfmem.hub.settings import Settings
from hfmem.hub.store import FactStore, is_commit
from hfmem.hub.weights import (
    INDEX,
    SINGLE,
    Weights,
    from_headers,
    from_index,
    from_metadata_route,
    from_named_file,
    is_gguf_place,
    listed_weights,
    other_weights,
    quantization_files,
    without_config,
)
from hfmem.hub.workers import Task, run_all
from hfmem.records import dataclass, replace

CONFIG = "config.json"


@dataclass(slots=True)
class Live:
    """One fetch of one reference."""

    client: Client
    settings: Settings
    store: FactStore
    ref: HubRef
    options: FetchOptions

    def load(self) -> ModelFacts:
        """The facts, from the Hub or, when the Hub says that they still hold, from a cache.

        Raises:
            SourceError: see `hfmem.errors`.
        """
        revision = self.ref.revision or "main"
        repo = RemoteFiles(self.client, self.settings.endpoint, self.ref.repo_id, revision, self.options.progress)
        part = self.ref.part
        config: Response | None = None
        if not self.options.refresh and not self.options.no_cache:
            config, facts = self._stored(repo, revision, part)
            if facts is not None:
                return replace(facts, stats=replace(self.client.stats(), cache_hit=True))
        if self.options.no_headers and part is None:
            config, facts = self._fetch_sizes(repo, config)
            if facts is not None:  # not stored: they would stand in the way of what headers say
                return replace(facts, stats=self.client.stats())
        facts = self._fetch(repo, config)
        self.store.save(facts, self.settings.endpoint, revision, part)
        return replace(facts, stats=self.client.stats())

    def _stored(self, repo: RemoteFiles, revision: str, part: str | None) -> tuple[Response | None, ModelFacts | None]:
        """Stored facts that the Hub confirms, and the response for config.json where it was read on the way."""
        repo_id, endpoint = self.ref.repo_id, self.settings.endpoint
        known = self.store.commit_of(endpoint, repo_id, revision)
        if is_commit(revision):
            facts = self.store.load(repo_id, revision, part) or self._snapshot(revision)
            return None, facts
        stored = self.store.load(repo_id, known, part) if known else None
        if stored is None and self._snapshot_commit(revision) is None:
            return None, None

        def confirms(headers: Mapping[str, str]) -> bool:
            return stored is not None and headers.get("x-repo-commit") == stored.revision

        timeout = self.settings.etag_timeout
        asked = Task(self.client, lambda: repo.get(CONFIG, MAX_CONFIG_BYTES, timeout=timeout, stop=confirms))
        self._meanwhile(asked)
        config = asked.result()
        commit = config.header("x-repo-commit")
        if not is_commit(commit):
            return config, None
        if stored is None or commit != stored.revision:
            stored = self.store.load(repo_id, str(commit), part) or self._snapshot(str(commit))
            if stored is not None:
                self.store.save(stored, endpoint, revision, part)
        return (config, stored) if config.status == 200 or stored is not None else (None, None)

    def _snapshot_commit(self, revision: str) -> str | None:
        from hfmem.hub.hfcache import cached_commit

        return cached_commit(self.settings.hub_cache, self.ref.repo_id, revision)

    def _snapshot(self, commit: str) -> ModelFacts | None:
        if self.ref.part is not None:
            return None
        return snapshot_facts(self.settings.hub_cache, self.ref.repo_id, commit)

    def _fetch(self, repo: RemoteFiles, known_config: Response | None) -> ModelFacts:
        self._progress(repo, 0)
        if self.ref.variant is not None or (self.ref.file or "").lower().endswith(".gguf"):
            return self._fetch_gguf(repo)
        config_task = None
        if known_config is None:
            timeout = self.settings.etag_timeout
            config_task = Task(self.client, lambda: repo.get(CONFIG, MAX_CONFIG_BYTES, timeout=timeout))
        else:
            _pin(repo, known_config)
        if self.ref.file is not None:
            return self._fetch_one_file(repo, config_task, known_config)
        # revisions other than main are not served by the metadata route
        by_route = self.ref.revision in (None, "main") and not self.store.lacks_metadata_route(self.settings.endpoint)
        start = RemoteFiles(self.client, repo.endpoint, repo.repo_id, repo.revision)
        all_headers = Task(
            self.client, lambda: start.metadata(INDEX) if by_route else start.whole(INDEX, MAX_INDEX_BYTES)
        )
        single = Task(self.client, lambda: start.front(SINGLE, DEFAULT_GUESS))
        self._meanwhile(config_task or all_headers)

        config = known_config if config_task is None else config_task.result()
        assert config is not None
        _pin(repo, config)
        if config.status == 404:
            self._check_exists(repo, config)
            if is_gguf_place(repo):
                return self._fetch_gguf(repo)
            values, name, weights = without_config(repo, repo.listing())
        else:
            values, name = parse_object(config.body, f"{repo.label}: {CONFIG}"), CONFIG
            found = self._weights(repo, all_headers, single, by_route)
            if found is None:
                return self._fetch_gguf(repo)
            weights = found
        return self._facts(repo, config, values, name, weights)

    def _fetch_sizes(self, repo: RemoteFiles, config: Response | None) -> tuple[Response, ModelFacts | None]:
        """config.json, and the facts by it and the sizes of files; None where these do not tell which files are the weights."""
        start = RemoteFiles(self.client, repo.endpoint, repo.repo_id, repo.revision)
        listed = Task(self.client, start.tree)
        if config is None:
            timeout = self.settings.etag_timeout
            asked = Task(self.client, lambda: repo.get(CONFIG, MAX_CONFIG_BYTES, timeout=timeout))
            self._meanwhile(asked)
            config = asked.result()
        _pin(repo, config)
        weights = listed_weights(listed.result()) if config.status == 200 else None
        if weights is None:
            return config, None
        values = parse_object(config.body, f"{repo.label}: {CONFIG}")
        return config, self._facts(repo, config, values, CONFIG, weights, listed.result())

    def _fetch_gguf(self, repo: RemoteFiles) -> ModelFacts:
        """A GGUF model has no config.json: its own keys describe it."""
        from hfmem.hub.gguf import load_file, load_place

        ref = self.ref
        found = load_place(repo, ref.repo_id, ref.variant) if ref.file is None else load_file(repo, ref.file)
        self._progress(repo, 1)
        commit = next((c for c in (repo.commit, repo.revision, ref.revision) if is_commit(c)), None)
        return gguf_facts(found, ref.repo_id, commit, "hub")

    def _fetch_one_file(self, repo: RemoteFiles, task: Task[Response] | None, known: Response | None) -> ModelFacts:
        name = self.ref.file or ""
        config = known if task is None else task.result()
        assert config is not None
        if config.status == 404:
            self._check_exists(repo, config)
        _pin(repo, config)
        folder = name.rpartition("/")[0]
        weights = from_named_file(repo, name)
        if config.status == 404:
            without_config(repo, {**repo.listing(), name: None})
        values = parse_object(config.body, f"{repo.label}: {CONFIG}")
        notice = f"one file of the repo: {name}" + (f" (with the config.json above {folder}/)" if folder else "")
        return self._facts(repo, config, values, CONFIG, replace(weights, notice=notice))

    def _weights(
        self, repo: RemoteFiles, all_headers: Task[Response], single: Task[Response], by_route: bool
    ) -> Weights | None:
        """The weights, by whichever of the requests in flight answers; None where there are GGUF files alone."""
        try:
            response = all_headers.result()
        except NetworkError:
            if not by_route or self.client.quick:
                raise
            response = None  # the route failed, the files themselves may not
        if response is not None and response.status == 200:
            if not by_route:
                return from_index(repo, response.body, INDEX)
            # `main` may move between two requests: headers of another commit than the config's are not taken
            if response.header("x-repo-commit") in (None, repo.revision):
                try:
                    assert isinstance(response.sink, ShardStream)
                    return from_metadata_route(response.sink, f"{repo.label}: safetensors-metadata")
                except FormatError:
                    pass  # not that route's response: a mirror that answers everything
            response = None
        elif response is not None and not by_route:
            repo.checked(response)
        no_index = response is not None and response.header("x-error-code") == "EntryNotFound"
        elsewhere = not self.settings.official
        # On the official Hub the route speaks for the index: that it failed and the single file is there settles it. Elsewhere the
        # index is asked for at once: the single file's front may still be on its way from a storage host.
        if by_route and not no_index and (elsewhere or single.result().status == 404):
            if response is not None and is_plain_404(response) and elsewhere:
                self.store.remember_no_metadata_route(self.settings.endpoint)
            index = repo.get(INDEX, MAX_INDEX_BYTES)
            if index.status == 200:
                return from_index(repo, index.body, INDEX)
        front = single.result()
        if front.status == 404:
            if there := [name for name in (INDEX, SINGLE) if name in repo.listing()]:
                raise NetworkError(
                    f"{repo.label}: {there[0]} is in the list of files, and the server says that it is not there"
                )
            return None if is_gguf_place(repo) else other_weights(repo, repo.listing())
        return from_headers({SINGLE: repo.finish_header(SINGLE, front)})

    def _facts(
        self,
        repo: RemoteFiles,
        config: Response,
        values: dict[str, object],
        name: str,
        weights: Weights,
        tree: Mapping[str, int | None] | None = None,
    ) -> ModelFacts:
        extra: dict[str, Mapping[str, object]] = {}
        wanted = quantization_files(values, weights.checkpoint, tree)
        if wanted:
            found = run_all(self.client, wanted, lambda file: repo.read(file, MAX_CONFIG_BYTES))
            for file, data in zip(wanted, found, strict=True):
                if data is not None:
                    extra[file] = parse_object(data, f"{repo.label}: {file}")
        self._progress(repo, 1)
        commit = config.header("x-repo-commit")
        return ModelFacts(
            repo_id=self.ref.repo_id,
            revision=commit if is_commit(commit) else self.ref.revision if is_commit(self.ref.revision) else None,
            source="hub",
            config=values,
            config_file=name,
            checkpoint=weights.checkpoint,
            evidence=weights.evidence,
            index_total_size=weights.index_total_size,
            download_bytes=weights.download_bytes,
            weight_files=weights.files,
            extra=extra,
            notice=weights.notice,
            warnings=weights.warnings,
        )

    def _check_exists(self, repo: RemoteFiles, config: Response) -> None:
        """Tells a repo without config.json from no repo, where the 404 itself does not."""
        if is_plain_404(config) and config.header("x-repo-commit") is None and not repo.listing():
            repo.fail(config)

    def _meanwhile(self, first: Task[Response]) -> None:
        if self.options.meanwhile is not None:
            self.options.meanwhile(first.is_waiting)

    def _progress(self, repo: RemoteFiles, done: int) -> None:
        if self.options.progress is not None:
            self.options.progress(done, 1, repo.label)


def _pin(repo: RemoteFiles, response: Response) -> None:
    """Reads all further files at the commit that config.json was of."""
    commit = response.header("x-repo-commit")
    if is_commit(commit):
        repo.revision = str(commit)
