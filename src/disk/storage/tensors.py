"""Reading untrusted files of tensors: runs no code, and takes no more memory than the size of the file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch


def load_tensors(path: Path) -> Any:
    """Load a file of torch.save that holds tensors and plain values only.

    Raises ValueError if it would take more memory than disk space (torch writes uncompressed files), and torch's errors
    for any other content.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ValueError("it would grow when it is read")
    content = torch.load(path, map_location="cpu", weights_only=True)
    _check_size(content, size)
    return content


def _check_size(content: Any, size: int) -> None:
    """Raise ValueError for a tensor larger than the file (such as one expanded number) or with a sparse layout."""
    if isinstance(content, torch.Tensor):
        if content.layout != torch.strided or content.numel() * content.element_size() > size:
            raise ValueError("it holds a tensor larger than the file")
    elif isinstance(content, dict):
        for value in content.values():
            _check_size(value, size)
    elif isinstance(content, list | tuple):
        for value in content:
            _check_size(value, size)
