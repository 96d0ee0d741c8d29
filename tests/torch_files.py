"""Files of torch.save, and zips by hand that are like them."""

from __future__ import annotations

import io
import zipfile
from typing import Any

from hfmem.checkpoint.torch_pickle import TorchFile, read_torch


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    import torch  # tests that ask for such files skip without it

    torch.save(value, buffer, **options)
    return buffer.getvalue()


def facts(data: bytes) -> TorchFile:
    return read_torch(lambda offset, length: data[offset : offset + length], len(data), file="m.bin")


def archive(pkl: bytes, storages: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("archive/data.pkl", pkl)
        for key, data in (storages or {}).items():
            file.writestr(f"archive/data/{key}", data)
    return buffer.getvalue()
