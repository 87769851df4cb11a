"""LightGlue (Lindenberger et al., ICCV 2023), a learned matcher, as implemented in kornia."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from disk.errors import CheckpointError, DiskError, DownloadError, require
from disk.features import Features, Matches
from disk.options import option
from disk.shapes import Tensor
from disk.storage.download import download
from disk.storage.tensors import load_tensors

URL = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/disk_lightglue.pth"
_LENGTH = 128  # length of the descriptors it was trained for


class LightGlue:
    """Matches the features of two images by their descriptors and positions.

    weights: a state dict as released by the authors or saved from kornia's module
    half: use mixed precision on a GPU
    source: the file of the weights, named in errors

    Raises MissingExtraError without kornia, and CheckpointError for other weights.
    """

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device, half: bool, source: Path) -> None:
        kornia: Any  # its annotations do not allow the None below
        require("kornia")
        import kornia.feature as kornia

        self.network = kornia.LightGlue(None, input_dim=_LENGTH, mp=half and device.type != "cpu")
        _load(self.network, weights, source)
        self.network.eval().to(device)
        self.device = device

    @torch.no_grad()
    def match(self, f0: Features, f1: Features, size0: tuple[int, int], size1: tuple[int, int]) -> Matches:
        """Match two images; the matches have scores and points and are sorted by the first index.

        size0, size1: (width, height) of the images in pixels

        Raises DiskError for descriptors of another length.
        """
        for features in (f0, f1):
            if features.descriptors.shape[1] != _LENGTH:
                raise DiskError(
                    f"LightGlue needs descriptors of length {_LENGTH}, these have {features.descriptors.shape[1]}; "
                    f"use {option('matcher', 'mnn')}"
                )
        if len(f0) == 0 or len(f1) == 0:
            indices = torch.empty((0, 2), dtype=torch.int64, device=self.device)
            scores = torch.empty(0, device=self.device)
        else:
            found = self.network({"image0": self._input(f0, size0), "image1": self._input(f1, size1)})
            order = found["matches"][0][:, 0].argsort()
            indices, scores = found["matches"][0][order], found["scores"][0][order].float()
        f0, f1 = f0.to(self.device), f1.to(self.device)
        d0, d1 = f0.descriptors[indices[:, 0]].float(), f1.descriptors[indices[:, 1]].float()
        return Matches(indices, torch.linalg.vector_norm(d0 - d1, dim=1), scores).between(f0, f1)

    def _input(self, features: Features, size: tuple[int, int]) -> dict[str, Tensor]:
        bounds = torch.tensor([size], dtype=torch.float32, device=self.device)
        # kornia refuses keypoints outside the image, where rounding may have put one
        keypoints = features.keypoints.to(self.device).float().clamp(min=0).minimum(bounds)
        descriptors = features.descriptors.to(self.device).float()
        return {"keypoints": keypoints[None], "descriptors": descriptors[None], "image_size": bounds}


def fetch_weights(folder: Path, url: str = URL) -> Path:
    """The authors' weights for DISK, downloaded to `folder` unless already there.

    Raises CheckpointError if they cannot be downloaded.
    """
    try:
        return download(
            url, folder / "disk_lightglue.pth", check=_can_be_read, description="LightGlue's weights", most=1 << 30
        )
    except DownloadError as error:
        raise CheckpointError(
            f"{error}; or download the file elsewhere and pass it with {option('matcher_weights')}"
        ) from error


def _can_be_read(path: Path) -> bool:
    # the authors publish no checksum
    try:
        return isinstance(load_tensors(path), dict)
    except Exception:  # torch raises many kinds for a damaged file
        return False


def _load(network: torch.nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load the weights; the released file names the layers differently, and buffers may be missing."""
    renamed = {}
    for name, tensor in weights.items():
        kind, _, rest = name.partition(".")
        if kind in ("self_attn", "cross_attn"):
            layer, _, rest = rest.partition(".")
            name = f"transformers.{layer}.{kind}.{rest}"
        renamed[name] = tensor
    try:
        missing = network.load_state_dict(renamed, strict=False).missing_keys
    except RuntimeError as error:  # of another shape
        raise CheckpointError(f"{source}: weights of another network, not of LightGlue for DISK") from error
    parameters = dict(network.named_parameters())
    wanting = [name for name in missing if name in parameters]
    if wanting:
        raise CheckpointError(f"{source}: not LightGlue's weights ({wanting[0]} is missing)")
