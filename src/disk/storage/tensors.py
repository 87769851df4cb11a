"""Reading files of tensors that anyone may have made: no code is run, and nothing grows beyond the file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch


def load_tensors(path: Path) -> Any:
    """What torch.save wrote, if it is tensors and plain values. Raises whatever torch does for anything else.

    ValueError where the file would take more memory than room on the disk: torch writes it uncompressed.
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
    """Raise ValueError for a tensor that is larger than the file, one number repeated, or not laid out plainly."""
    if isinstance(content, torch.Tensor):
        if content.layout != torch.strided or content.numel() * content.element_size() > size:
            raise ValueError("it holds a tensor larger than the file")
    elif isinstance(content, dict):
        for value in content.values():
            _check_size(value, size)
    elif isinstance(content, list | tuple):
        for value in content:
            _check_size(value, size)
