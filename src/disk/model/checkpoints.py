"""Checkpoints: the weights in the package, the authors' weights, and any file with weights of the same network."""

from __future__ import annotations

import difflib
import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from disk.cache import cache_folder
from disk.devices import choose_device
from disk.errors import CheckpointError
from disk.model.disk import DISK
from disk.model.engine import Backend
from disk.options import Precision, as_meant, check_minimum
from disk.shapes import Tensor
from disk.storage.download import download, file_hash
from disk.storage.new_file import write_bytes
from disk.storage.tensors import load_tensors

_SHIPPED = Path(__file__).parent.parent / "weights" / "default.safetensors"
_WRAPPERS = ("disk", "extractor")  # keys of the training script's and of the released checkpoints
_MOST = 1 << 30  # bytes; maximum size of a download
_SUFFIXES = (".safetensors", ".pth")
_LAST = "unet.path_up.3.conv.3.weight"

# git blob ids (sha1 of "blob <size>\0" and the bytes) of the files in the repository cvlab-epfl/disk
RELEASED = {
    "depth": ("depth-save.pth", "0ae0911444297ea0fa5179ac7e9d0e8d7354d537"),
    "epipolar": ("epipolar-save.pth", "62f872146d6e2f1d4f322b27c768bb3e9b2a5949"),
}
RELEASED_URL = "https://raw.githubusercontent.com/cvlab-epfl/disk/master/"


def load(
    name_or_path: str | Path = "default",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    backend: Backend = "auto",
    threads: int | None = None,
) -> DISK:
    """Load a DISK network in evaluation mode, ready to detect.

    name_or_path: `default`, which ships with the package; `depth` or `epipolar`, the authors' weights, downloaded on
      first use to $DISK_HOME or the user's cache folder and verified; or a .pth or .safetensors file
    device: cpu, cuda, cuda:1, mps; auto: a GPU if there is one
    precision: of the arithmetic; auto: fp16 on a CUDA GPU, fp32 elsewhere
    backend: torch or onnx; auto: onnxruntime for fp32 on a CPU if it is installed and faster
    threads: number of threads of this process on a CPU, if several share one machine; default: all cores

    Raises CheckpointError if the file is missing or damaged, contains pickled code or has weights of another network,
    and DownloadError if the download fails.

    >>> model = load("default", device="cpu")
    >>> model.desc_dim, model.device.type, len(model.detect(torch.rand(3, 48, 64), n=20))
    (128, 'cpu', 20)
    """
    precision, backend = as_meant("precision", precision, Precision), as_meant("backend", backend, Backend)
    path = resolve(as_meant("name_or_path", name_or_path, str))
    state = read_state(path)
    if _LAST not in state or state[_LAST].ndim != 4:
        raise CheckpointError(f"{path}: weights of another network, not of DISK ({_LAST} is missing)")
    model = DISK(desc_dim=state[_LAST].shape[0] - 1)
    load_state(model, state, path)
    if threads is not None:
        check_minimum("threads", threads, 1)
        torch.set_num_threads(threads)
    model.precision, model.backend = precision, backend
    return model.to(choose_device(device)).eval()


def load_state(model: DISK, state: dict[str, Tensor], path: Path) -> None:
    """Fill `model` from a state dict. Raises CheckpointError, naming `path`, unless every tensor fits."""
    expected = model.state_dict()
    wrong = [f"{k} is missing" for k in expected if k not in state]
    wrong += [f"{k} is unknown" for k in state if k not in expected]
    wrong += [
        f"{k} has shape {tuple(state[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected
        if k in state and state[k].shape != expected[k].shape
    ]
    wrong += [f"{k} is not finite" for k in expected if k in state and not state[k].isfinite().all()]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckpointError(f"{path}: weights of another network: {wrong[0]}{more}")
    model.load_state_dict(state)


def resolve(name_or_path: str | Path) -> Path:
    """The file for a name or path; downloads the authors' weights. Raises CheckpointError if there is none."""
    name = str(name_or_path)
    if name == "default":
        return _SHIPPED
    if name in RELEASED:
        return fetch(name)
    path = Path(name_or_path)
    if path.is_file():
        return path
    if "://" in name:
        raise CheckpointError(f"{name}: cannot load from a URL; download the file and give its path")
    if path.is_dir():
        files = sorted(_checkpoints_in(path))
        inside = f"one of its files: {', '.join(files[:5])}" if files else f"a file ({' or '.join(_SUFFIXES)})"
        raise CheckpointError(f"{path} is a folder; give {inside}")
    names = ["default", *RELEASED]
    close = difflib.get_close_matches(name, names, n=1)
    if not close and path.parent.is_dir():
        close = [str(path.parent / n) for n in difflib.get_close_matches(path.name, _checkpoints_in(path.parent), n=1)]
    hint = f"did you mean {close[0]}?" if close else f"give a file or one of {', '.join(names)}"
    raise CheckpointError(f"{path}: no such checkpoint; {hint}")


def _checkpoints_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.suffix in _SUFFIXES]


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict from a .safetensors or .pth file, unwrapped if it is nested under a key.

    Raises CheckpointError if the file is damaged or contains anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = load_tensors(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # each library has its own exceptions for a damaged file
        why = "it contains pickled code" if "weights_only" in str(error) else "it is damaged or of another type"
        raise CheckpointError(f"{path}: not a checkpoint that can be loaded safely: {why}") from error
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: not a DISK checkpoint (expected named tensors)")
    return content


def save(model: DISK, path: Path) -> None:
    """Write the weights atomically: as safetensors, or as .pth in the layout of the released checkpoints.

    Raises CheckpointError for another extension, and ArtifactError if the file cannot be written.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import save as to_bytes

        write_bytes(path, to_bytes(state))
    elif path.suffix == ".pth":
        write_checkpoint(path, {"extractor": state})
    else:
        raise CheckpointError(f"{path}: name it .safetensors or .pth")


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a file atomically with torch.save. Raises ArtifactError if it cannot be written."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def weights_hash(model: DISK) -> str:
    """The fingerprint of the weights, which artifacts record: the first 16 hex digits of their sha256."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def fetch(name: str, url: str | None = None) -> Path:
    """Download the authors' weights `depth` or `epipolar` to the cache folder and verify their git blob id.

    url: folder of the files; default: the authors' repository

    Raises CheckpointError for another name.
    """
    if name not in RELEASED:
        raise CheckpointError(f"no weights {name!r} to fetch; choose from {', '.join(RELEASED)}")
    file, blob = RELEASED[name]
    target = cache_folder() / file
    address = (url or RELEASED_URL).rstrip("/") + "/" + file
    return download(address, target, check=lambda path: file_hash(path, "git") == blob, description=file, most=_MOST)
