"""The report as one screen of text: the answer last, where the eye rests, and the doubt beside each number."""

from __future__ import annotations

from hfmem.dtypes import dtype_word
from hfmem.memory.serving import ENGINES
from hfmem.render.grid import Grid
from hfmem.render.lines import Line, Span, line
from hfmem.report import RUNTIME_WORDS, Grade, Report, RuntimeItem
from hfmem.units import GIB, format_bytes, format_count, format_gb

_MARKS: dict[Grade, Span] = {"exact": ("=", "green"), "derived": ("≈", "cyan"), "estimated": ("~", "yellow")}
_BAR_WIDTH = 20
#: an engine's item below this would read 0.00 GiB: it is in the total and in JSON, not in a row
_LEAST_SHOWN = GIB // 200
_INDENT = 34  # where the text beside a number begins without bars


def render_report(report: Report, *, bars: bool = False, exact: bool = False) -> list[Line]:
    """Lines for one report. `bars` draws each part's share (terminals only); `exact` prints bytes instead of GiB."""
    lines = _headline(report)
    lines.append(line(""))
    total = max(report.total_bytes, 1)
    rows = parts(report, least=0 if exact else _LEAST_SHOWN)
    unit = _number(0, exact)[1]
    width = max(len(_number(row[1], exact)[0]) for row in (*rows, ("", report.total_bytes, "exact", "")))
    for name, num_bytes, grade, detail in rows:
        lines.append(_row(name, num_bytes, _MARKS[grade], detail, width, exact, num_bytes / total if bars else None))
    lines.append(line(("  " + "─" * (16 + width + len(unit)), "dim"), hang=None))
    lines.append(
        line(
            "  ",
            (f"{'total':<14}", "bold"),
            (f"{_number(report.total_bytes, exact)[0]:>{width}}", "bold"),
            f" {unit}     ",
            *_total_detail(report),
            hang=_INDENT,
        )
    )
    lines += _draft_lines(report) + _engine_lines(report)
    lines += _pool_lines(report)
    lines += _host_lines(report)
    if report.fit is not None:
        from hfmem.render.fit import fit_lines

        lines += fit_lines(report)
    if report.warnings:
        lines += [line(("! ", "bold yellow"), warning.message, hang=2) for warning in report.warnings]
    return lines


def parts(report: Report, *, least: int = 0) -> list[tuple[str, int, Grade, str]]:
    """What the total is made of: name, bytes over all ranks, grade, and where it is from; of the engine's own memory only what
    takes `least` bytes."""
    rows: list[tuple[str, int, Grade, str]] = [
        ("weights", held_weights(report), held_grade(report), _weights_detail(report)),
        ("KV cache", report.kv_cache.bytes, report.kv_cache.grade, _cache_detail(report)),
    ]
    ranks = report.parallelism.num_ranks
    for key, item in report.runtime.items():
        if item.bytes * ranks < least:
            continue
        name = RUNTIME_WORDS.get(key, key.removesuffix("_bytes"))
        rows.append((name, item.bytes * ranks, item.grade, _band(item, ranks, each=key == "loading_bytes")))
    return rows


def report_grid(report: Report) -> Grid:
    """The report as a table, for formats that are not for a terminal."""
    rows: list[tuple[str, ...]] = [
        (name, f"{size / GIB:,.2f}", grade, detail) for name, size, grade, detail in parts(report, least=_LEAST_SHOWN)
    ]
    rows.append(("total", f"{report.total_bytes / GIB:,.2f}", "", "".join(text for text, _ in _plain_total(report))))
    below = [*_draft_lines(report), *_engine_lines(report), *_pool_lines(report), *_host_lines(report)]
    answer = ""
    if report.fit is not None:
        from hfmem.render.fit import fit_lines

        devices, verdict, reach = fit_lines(report)
        below += [devices, reach]
        answer = verdict.text.strip()
    notes = [item.text.strip() for item in [*_headline(report)[1:], *below]]
    return Grid(
        head=("", "GiB", "grade", ""),
        rows=tuple(rows),
        left=frozenset({0, 2, 3}),
        title=_headline(report)[0].text,
        answer=answer,
        notes=(*notes, *(f"! {warning.message}" for warning in report.warnings)),
    )


def _plain_total(report: Report) -> list[Span]:
    return [(item, "") if isinstance(item, str) else item for item in _total_detail(report)]


def report_text(report: Report) -> str:
    """One report as `hfmem MODEL` prints it in a pipe, without a final newline."""
    return "\n".join(item.text.rstrip() for item in (*render_report(report), *legend()))


def legend() -> list[Line]:
    """What the marks mean."""
    return [
        line(
            "  ",
            _MARKS["exact"],
            (" exact   ", "dim"),
            _MARKS["derived"],
            (" derived by rule   ", "dim"),
            _MARKS["estimated"],
            (" estimated          --json prints everything", "dim"),
            hang=4,
        )
    ]


def held_weights(report: Report) -> int:
    """What the engine holds over all ranks: replicas and padding included, what it does not load left out."""
    runtime = report.per_rank.runtime_bytes * report.parallelism.num_ranks
    return report.total_bytes - report.kv_cache.bytes - runtime


def held_grade(report: Report) -> Grade:
    """Of those bytes: read from the headers only where the engine holds the tensors as they are stored."""
    return report.weights.grade if held_weights(report) == report.weights.bytes else "derived"


def _headline(report: Report) -> list[Line]:
    model = report.model
    parameters = f"{format_count(report.parameters.total)} parameters"
    if report.parameters.active != report.parameters.total:
        parameters += f" ({format_count(report.parameters.active)} active)"
    quantization = report.weights.quantization
    precision = dtype_word(model.dtype)
    if quantization:
        bits = quantization.get("bits")
        label = quantization.get("file_type")
        kind = f" {label}" if label else f" {bits}-bit" if bits else ""
        precision = f"{quantization.get('method')}{kind}, {precision} activations"
    shape = f" · {model.num_hidden_layers} layers" if model.num_hidden_layers else ""  # 0: not told (`by_files`)
    if model.num_attention_heads:
        shape += f", {model.num_attention_heads} heads"
        if any(row.kind.startswith("latent") for row in report.layers):
            shape += ", latent cache"
        elif model.num_kv_heads is not None:
            shape += f", {model.num_kv_heads} KV {'head' if model.num_kv_heads == 1 else 'heads'} × {model.head_dim}"
    lines = [
        line(
            (model.id, "bold"),
            ("@" + model.revision[:7] if model.revision and len(model.revision) >= 40 else "", "dim"),
            f" · {model.model_type} · {parameters} · {precision}{shape}",
            hang=2,
        )
    ]
    if model.notice:
        lines.append(line((model.notice, "yellow"), hang=0))
    kinds = [f"{row.count} {_kind_words(row.kind, row.window)}" for row in report.layers]
    if len({row.kind for row in report.layers}) > 1 or any(row.window for row in report.layers):
        merged: dict[str, int] = {}
        for row in report.layers:
            word = _kind_words(row.kind, row.window)
            merged[word] = merged.get(word, 0) + row.count
        kinds = [f"{count} {word}" for word, count in merged.items()]
        lines.append(line(("layers: " + " · ".join(kinds), "dim"), hang=8))
    return lines


def _kind_words(kind: str, window: int | None) -> str:
    word = {"latent_sparse": "latent sparse", "none": "without cache"}.get(kind, kind)
    return f"{word} ({window:,})" if window else word


def _number(num_bytes: int, exact: bool) -> tuple[str, str]:
    return (f"{num_bytes:,}", "B") if exact else (f"{num_bytes / GIB:,.2f}", "GiB")


def _row(name: str, num_bytes: int, mark: Span, detail: str, width: int, exact: bool, share: float | None) -> Line:
    value, unit = _number(num_bytes, exact)
    spans: list[Span | str] = ["  ", f"{name:<14}", f"{value:>{width}} {unit}  ", mark, "  "]
    hang = 2 + 14 + width + len(unit) + 6
    if share is not None:
        spans.append((f"{_bar(share):<{_BAR_WIDTH}}  ", "blue"))
        hang += _BAR_WIDTH + 2
    spans.append((detail, "dim"))
    return line(*spans, hang=hang)


def _bar(share: float) -> str:
    eighths = round(max(0.0, min(1.0, share)) * _BAR_WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]


def _weights_detail(report: Report) -> str:
    weights = report.weights
    shown = [
        f"{name.replace('_', ' ')} {num_bytes / GIB:,.2f}"
        for name, num_bytes in weights.by_component.items()
        if num_bytes >= GIB / 200
    ]
    dtypes = [
        f"{dtype} {num_bytes / GIB:,.2f}" for dtype, num_bytes in weights.by_dtype.items() if num_bytes >= GIB / 200
    ]
    text = ", ".join(shown) if len(shown) > 1 else ""
    if abs(held_weights(report) - weights.bytes) > weights.bytes // 200:
        text = f"{weights.bytes / GIB:,.2f} stored" + (f": {text}" if text else "")
    if len(dtypes) > 1:
        text += ("; " if text else "") + " + ".join(dtypes)
    if weights.download_bytes is not None:
        text += ("; " if text else "") + f"download {format_gb(weights.download_bytes)}"
    if weights.evidence != "headers":
        text += ("; " if text else "") + {
            "config": "counted from config.json by the family's rule",
            "index": "size from the index, no headers",
        }.get(weights.evidence, weights.evidence)
    return text


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _cache_detail(report: Report) -> str:
    cache = report.kv_cache
    parts: list[str] = []
    if cache.bytes_per_token:
        parts.append(f"{_plural(cache.context, 'token')} × {format_bytes(cache.bytes_per_token)}")
    elif cache.bytes:
        parts.append(_plural(cache.context, "token"))
    if cache.state_bytes_per_seq:
        parts.append(f"state {format_bytes(cache.state_bytes_per_seq)} a sequence")
    if not parts:
        return "none: this model keeps nothing between tokens"
    parts.append(_plural(cache.num_seqs, "sequence"))
    if copies := _copies(report):
        parts.append(f"{copies:.3g} copies over {report.parallelism.num_ranks} ranks")
    parts.append(f"{cache.dtype}, {cache.engine}")
    return ", ".join(parts)


def _copies(report: Report) -> float:
    """How often the ranks together hold what one rank would (replicated heads and latents); 0: about once."""
    cache = report.kv_cache
    alone = cache.engines.get(cache.engine)
    times = cache.bytes / alone if alone else 0
    return times if times > 1.5 else 0


def _band(item: RuntimeItem, ranks: int, each: bool) -> str:
    """The band over all ranks, as the row's number is, and where it is from; `each`: in words that speak of one rank."""
    if item.low == item.high:
        over = f", {'on each of' if each else 'over'} {ranks} ranks" if ranks > 1 else ""
        return item.source + over
    over = f", {ranks} ranks" if ranks > 1 else ""
    return f"{ranks * item.low / GIB:,.2f}–{ranks * item.high / GIB:,.2f}{over}: {item.source}"


def _total_detail(report: Report) -> list[Span | str]:
    spans: list[Span | str] = []
    rank, layout = report.per_rank, report.parallelism
    if layout.num_ranks > 1:
        where = report.stage_name(rank.stage)
        spans.append(f"{format_bytes(rank.total_bytes)} on the most loaded rank{f' ({where})' if where else ''}")
    return spans


def _draft_lines(report: Report) -> list[Line]:
    draft = report.draft
    if draft is None:
        return []
    name = "the model's own prediction layers" if draft.id == "mtp" else draft.id
    weights, cache = format_bytes(draft.weights_bytes_per_rank), format_bytes(abs(draft.kv_cache_bytes))
    of_cache = (
        f"{cache} of the cache are for that" if draft.kv_cache_bytes >= 0 else f"{cache} less of the cache go with that"
    )
    text = f"  {name} draft{'' if draft.id == 'mtp' else 's'}: {weights} of a rank's weights and {of_cache}"
    return [line((text, "dim"), hang=4)]


def _host_lines(report: Report) -> list[Line]:
    host = report.host
    if host is None:
        return []
    parts = ((host.weights_bytes, "weights"), (host.kv_cache_bytes, "cache"))
    named = ", ".join(f"{format_bytes(size)} of {name}" for size, name in parts if size)
    text = f"  of it in the host's memory: {named or 'nothing'}"
    flags = [f"--ngl {host.gpu_layers}"] if host.gpu_layers is not None else []
    flags += [f"--n-cpu-moe {host.cpu_moe_layers}"] if host.cpu_moe_layers else []
    flags += [f"--cpu-offload-gb {host.cpu_offload_bytes / GIB:g}"] if host.cpu_offload_bytes else []
    text += f" ({' '.join(flags)})" if flags else ""
    return [line((text, "dim"), hang=4)]


def _engine_lines(report: Report) -> list[Line]:
    cache = report.kv_cache
    values = {name: cache.engines.get(name) for name in ENGINES}
    known = {value for value in values.values() if value is not None}
    if len(known) < 2:
        return []
    parts = [f"{name} {'–' if value is None else f'{value / GIB:,.2f}'}" for name, value in values.items()]
    return [line(("  cache by engine, GiB at TP 1: " + " · ".join(parts), "dim"), hang=4)]


def _pool_lines(report: Report) -> list[Line]:
    pool = report.engine_pool
    if pool is None:
        return []
    text = (
        f"  pool of {format_bytes(pool.kv_memory_bytes_per_rank)} a rank: {_plural(pool.num_pages, 'page')} of "
        f"{_plural(pool.page_size, 'token')}, {_plural(pool.capacity_tokens, 'token')}, {pool.max_concurrency:.2f} sequences of "
        f"{report.kv_cache.context:,}"
    )
    return [line(text, hang=4)]
