"""The files of one Hub repo at one revision, read over HTTP: small files whole, weight files by their front only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import quote, urljoin

from hfmem.checkpoint.canonical import Known
from hfmem.checkpoint.safetensors import PREFIX_BYTES, Header, header_length, parse_header
from hfmem.checkpoint.shard_stream import ShardStream
from hfmem.errors import FormatError, MissingFileError, NetworkError
from hfmem.hub.connection import origin_of
from hfmem.hub.facts import Progress
from hfmem.hub.http import MAX_RETRIES, Client, Response
from hfmem.hub.responses import fail, is_missing_file, is_plain_404
from hfmem.hub.settings import OFFICIAL_ENDPOINTS
from hfmem.hub.weights import PROBED
from hfmem.hub.workers import run_all
from hfmem.records import dataclass, field

if TYPE_CHECKING:
    from hfmem.checkpoint.gguf import GgufHeader
    from hfmem.checkpoint.torch_pickle import TorchFile

T = TypeVar("T")

#: the safetensors-metadata response of a model with 200,000 tensors is some 30 MB
MAX_METADATA_BYTES = 256 << 20
_MAX_LISTING_BYTES = 16 << 20
_MAX_LISTING_PAGES = 10


@dataclass(slots=True)
class RemoteFiles:
    """`Files` of a repo. `revision` becomes the commit once it is known, so that all files are of one commit."""

    client: Client
    endpoint: str
    repo_id: str
    revision: str
    progress: Progress | None = None
    _tree: dict[str, int | None] | None = None
    #: file → where its storage host serves it, so that further ranges need no redirect
    _direct: dict[str, str] = field(default_factory=dict)
    #: the commit that a ranged read said it was of
    commit: str | None = None

    @property
    def label(self) -> str:
        return self.repo_id

    def url(self, name: str) -> str:
        """Where a file is served."""
        return f"{self.endpoint}/{self.repo_id}/resolve/{quote(self.revision, safe='')}/{quote(name)}"

    def metadata_url(self, index_name: str) -> str:
        """Where all shard headers of `main` are served at once."""
        return f"{self.endpoint}/api/models/{self.repo_id}/safetensors-metadata/{quote(index_name)}"

    def get(
        self,
        name: str,
        max_bytes: int,
        *,
        timeout: float | None = None,
        stop: Callable[[Mapping[str, str]], bool] | None = None,
    ) -> Response:
        """The response for a whole file; errors of the repo raise, a file that is not there does not.

        Raises:
            NetworkError: a web page came instead, as a network gives whose users have to log in first.
        """
        response = self.checked(self.whole(name, max_bytes, timeout=timeout, stop=stop))
        page = response.headers.get("content-type", "").lower().startswith("text/html")
        if page and response.status == 200 and response.body.lstrip()[:1] == b"<":
            host = origin_of(response.url)
            raise NetworkError(f"{host} answered with a web page instead of {name}: does this network want a log-in?")
        return response

    def whole(
        self,
        name: str,
        max_bytes: int,
        *,
        timeout: float | None = None,
        stop: Callable[[Mapping[str, str]], bool] | None = None,
    ) -> Response:
        """The response for a whole file, whatever its status."""
        return self.client.get(self.url(name), max_bytes=max_bytes, timeout=timeout, stop=stop)

    def checked(self, response: Response) -> Response:
        """`response`, unless its status says that the repo cannot be read."""
        if response.status < 400 or response.status == 416 or is_missing_file(response) or is_plain_404(response):
            return response
        self.fail(response)

    def fail(self, response: Response) -> NoReturn:
        """Raises what the status of `response` stands for."""
        has_token = self.client.token is not None
        fail(response, self.repo_id, self.revision, endpoint=self.endpoint, has_token=has_token)

    def read(self, name: str, max_bytes: int) -> bytes | None:
        response = self.get(name, max_bytes)
        return response.body if response.status == 200 else None

    def headers(self, sizes: Mapping[str, int]) -> dict[str, Header]:
        names = list(sizes)
        if len(names) == 1:
            return {names[0]: self.header(names[0], sizes[names[0]], Known())}
        label = f"{self.repo_id}: safetensors headers"
        report = self.progress
        on_done = None if report is None else (lambda done, total: report(done, total, label))
        known = Known()
        found = run_all(self.client, names, lambda name: self.header(name, sizes[name], known), on_done)
        return dict(zip(names, found, strict=True))

    def header(self, name: str, guess: int, known: Known) -> Header:
        """The header of a file whose front takes about `guess` bytes: one request, one more for what is missing.

        `known` is what the model's other headers taught.
        """
        return self.finish_header(name, self.front(name, guess), known)

    def front(self, name: str, guess: int) -> Response:
        """The first `guess` bytes."""
        return self.checked(self.client.get(self.url(name), max_bytes=guess, byte_range=(0, guess)))

    def finish_header(self, name: str, response: Response, known: Known | None = None) -> Header:
        """The header of the file whose front is `response`.

        Raises:
            MissingFileError: the file is not there.
        """
        if response.status == 404:
            raise MissingFileError(f"{self.repo_id}: {name} is not there")
        total = response.total_size
        where = f"{self.repo_id}: {name}"
        if total == 0 or (response.status == 416 and not total) or not response.body:
            raise FormatError(f"{where} is empty (0 bytes)")
        if response.status != 206:
            raise NetworkError(f"{where}: the server answered {response.status} to a range request")
        data = response.body
        end = PREFIX_BYTES + header_length(data[:PREFIX_BYTES], where, total)
        if len(data) < end:
            rest = self.client.get(self.url(name), max_bytes=end, byte_range=(len(data), end))
            if rest.status != 206 or len(rest.body) != end - len(data):
                self.checked(rest)
                raise FormatError(f"{where}: truncated: its header ends after the file does")
            data += rest.body
        return parse_header(data[PREFIX_BYTES:end], total, file=where, known=known)

    def read_range(self, name: str, offset: int, length: int) -> tuple[bytes, int | None]:
        """`length` bytes from `offset` (fewer at the file's end), and the file's size.

        Raises:
            MissingFileError: the file is not there.
        """
        url = self._direct.get(name)
        span = (offset, offset + length)
        response = None if url is None else self.client.get(url, max_bytes=length, byte_range=span)
        if response is None or response.status not in (206, 416):  # a signed address expires
            response = self.checked(self.client.get(self.url(name), max_bytes=length, byte_range=span))
            self.commit = response.header("x-repo-commit") or self.commit
        if response.status == 404:
            raise MissingFileError(f"{self.repo_id}: {name} is not there")
        if response.status == 416:
            return b"", response.total_size
        if response.status != 206:
            raise NetworkError(f"{self.repo_id}: {name}: the server answered {response.status} to a range request")
        if response.hops:
            self._direct[name] = response.url
        return response.body, response.total_size

    def gguf_headers(self, sizes: Mapping[str, int | None]) -> list[GgufHeader]:
        from hfmem.hub.gguf import read_header

        def read(name: str) -> GgufHeader:
            return read_header(name, sizes[name], self.read_range, f"{self.repo_id}: {name}")

        return self._all(list(sizes), read, "GGUF headers")

    def torch_files(self, sizes: Mapping[str, int | None]) -> list[TorchFile]:
        from hfmem.hub.torchfiles import read_torch_file

        def read(name: str) -> TorchFile:
            return read_torch_file(name, sizes[name], self.read_range, f"{self.repo_id}: {name}")

        return self._all(list(sizes), read, "PyTorch files")

    def _all(self, names: list[str], read: Callable[[str], T], what: str) -> list[T]:
        if len(names) == 1:
            return [read(names[0])]
        report, label = self.progress, f"{self.repo_id}: {what}"
        on_done = None if report is None else (lambda done, total: report(done, total, label))
        return run_all(self.client, names, read, on_done)

    def listing(self) -> dict[str, int | None]:
        return {name: size for name, size in self.tree().items() if "/" not in name}

    def tree(self) -> dict[str, int | None]:
        if self._tree is None:
            self._tree = self._fetch_tree()
        return self._tree

    def _fetch_tree(self) -> dict[str, int | None]:
        """By the tree route; from a server that has none, by asking for the usual names.

        Raises:
            ModelNotFoundError, AccessError: the repo cannot be read.
        """
        url = f"{self.endpoint}/api/models/{self.repo_id}/tree/{quote(self.revision, safe='')}?recursive=true"
        found: dict[str, int | None] = {}
        for _ in range(_MAX_LISTING_PAGES):
            response = self.client.get(url, max_bytes=_MAX_LISTING_BYTES)
            if response.status >= 400 and response.header("x-error-code") is not None:
                self.fail(response)
            entries = _entries(response.body) if response.status == 200 else None
            if entries is None:
                return found or self._probe()
            found.update(entries)
            following = _next_page(response.headers.get("link", ""))
            if following is None:
                break
            url = self._at_endpoint(urljoin(url, following))
            if origin_of(url) != self.client.home:
                break
        return found

    def _at_endpoint(self, url: str) -> str:
        """An address of the Hub at the endpoint asked: a mirror may pass on what the Hub says."""
        for official in OFFICIAL_ENDPOINTS:
            if url.startswith(official + "/"):
                return self.endpoint + url.removeprefix(official)
        return url

    def _probe(self) -> dict[str, int | None]:
        responses = run_all(self.client, PROBED, lambda name: self.front(name, 1))
        return {name: r.total_size for name, r in zip(PROBED, responses, strict=True) if r.status < 300}

    def metadata(self, index_name: str) -> Response:
        """The safetensors-metadata response, with a `ShardStream` that took it.

        A server in trouble is asked once more only, since there is another way.
        """
        return self.client.get(
            self.metadata_url(index_name),
            max_bytes=MAX_METADATA_BYTES,
            retries=min(1, MAX_RETRIES),
            sink=lambda: ShardStream(f"{self.label}: safetensors-metadata"),
        )


def _entries(body: bytes) -> dict[str, int | None] | None:
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list):
        return None
    found: dict[str, int | None] = {}
    for entry in entries:
        if isinstance(entry, dict) and entry.get("type") == "file" and isinstance(entry.get("path"), str):
            size = entry.get("size")
            found[entry["path"]] = size if type(size) is int and size >= 0 else None
    return found


def _next_page(link: str) -> str | None:
    for part in link.split(","):
        address, _, relation = part.partition(";")
        if 'rel="next"' in relation:
            return address.strip().removeprefix("<").removesuffix(">")
    return None
