"""The headers of all shards, put together to one `Checkpoint` and checked against the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hfmem.checkpoint.grouping import Fold
from hfmem.checkpoint.index import Index
from hfmem.checkpoint.runs import Listed, Part
from hfmem.checkpoint.safetensors import Header
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.errors import ContradictionError, MissingFileError


def merge(headers: Mapping[str, Header], index: Index | None = None, *, file_bytes: int | None = None) -> Checkpoint:
    """All tensors of `headers` (file name → header), each counted once, in the order given.

    With an index, a tensor that two files store is the one of the file that the index names; without one nothing says
    which holds. `file_bytes` is the size of the files; left out, it is known when every header's length is.

    Raises:
        ContradictionError: a tensor stored twice with nothing to choose, or an index that names a tensor no file has.
        MissingFileError: the index names a file that has no header here.
    """
    notes = list(index.notes) if index else []
    tensors: Mapping[str, Sequence[Part]] = {shard: header.parts for shard, header in headers.items()}
    if index is None or not _agrees(headers, index):
        if index is not None:
            _check_index(headers, index, notes)
        names = [name for header in headers.values() for name in header.names]
        if len(set(names)) != len(names):
            tensors = _without_doubles(headers, index, notes)
    fold = Fold()
    for parts in tensors.values():
        fold.add_parts(parts)
    sizes = [header.file_bytes for header in headers.values()]
    if file_bytes is None and sizes and None not in sizes:
        file_bytes = sum(size for size in sizes if size is not None)
    metadata: dict[str, str] = {}
    for header in headers.values():
        for key, value in header.metadata:
            metadata.setdefault(key, value)
    return Checkpoint(
        groups=fold.groups(unique=True),
        format="safetensors",
        num_files=len(headers),
        file_bytes=file_bytes,
        metadata=tuple(metadata.items()),
        notes=tuple(notes),
    )


def _agrees(headers: Mapping[str, Header], index: Index) -> bool:
    """Whether the index names each tensor's file, no more and no less. Then no name is in two files."""
    if headers.keys() != index.by_shard.keys():
        return False
    for shard, header in headers.items():
        stored, named = header.text_names(), index.by_shard[shard]
        # no name is twice in a header, or in an index
        if stored != named and (len(stored) != len(named) or set(stored) != set(named)):
            return False
    return True


def _check_index(headers: Mapping[str, Header], index: Index, notes: list[str]) -> None:
    for shard in index.shards:
        if shard not in headers:
            raise MissingFileError(f"{index.file} names {shard}, which is not there")
    stored = {shard: set(header.text_names()) for shard, header in headers.items()}
    elsewhere: list[str] = []
    for shard, named in index.by_shard.items():
        for name in sorted(set(named) - stored[shard]):
            if not any(name in held for held in stored.values()):
                raise ContradictionError(
                    f"{index.file}: {shard} does not hold tensor {name[:200]!r}, nor does another file"
                )
            elsewhere.append(name)
    if elsewhere:
        notes.append(f"{index.file}: {len(elsewhere):,} tensors are in other files than it says ({elsewhere[0]}, …)")
    unnamed = [name for held in stored.values() for name in held - index.weight_map.keys()]
    if unnamed:
        notes.append(f"{index.file}: leaves out {len(unnamed):,} stored tensors ({min(unnamed)}, …)")


def _without_doubles(headers: Mapping[str, Header], index: Index | None, notes: list[str]) -> dict[str, list[Part]]:
    """Each name once: where several files store it, from the file that the index names."""
    home: dict[bytes, str] = {}
    doubles = 0
    for shard, header in headers.items():
        for name in header.names:
            first = home.setdefault(name, shard)
            if first == shard:
                continue
            doubles += 1
            text = name.decode("utf-8")
            named = index.weight_map.get(text) if index else None
            if named == shard:
                home[name] = shard
            elif named != first:
                raise ContradictionError(f"tensor {text!r} is stored in both {first} and {shard}")
    assert index is not None
    notes.append(f"{doubles:,} tensors are stored in several files and counted once, as {index.file} says")
    kept: dict[str, list[Part]] = {}
    for shard, header in headers.items():
        pairs = [pair for pair in zip(header.names, header.facts, strict=True) if home[pair[0]] == shard]
        kept[shard] = [Listed([name for name, _ in pairs], [fact for _, fact in pairs])]
    return kept
