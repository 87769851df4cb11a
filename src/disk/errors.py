"""The package's exceptions: one class for each kind of user error.

Each message is one line: what is wrong, where, and what to do. The command line prints it and exits with `exit_code`;
a traceback always means a bug in DISK.
"""

from importlib.util import find_spec
from typing import Any


class DiskError(Exception):
    """An error the user can fix. The command line prints it on one line and exits with 2."""

    exit_code = 2


class ImageError(DiskError):
    """An image or a folder of images cannot be used."""


class VideoError(DiskError):
    """A video cannot be used."""


class ArtifactError(DiskError):
    """An HDF5 artifact cannot be read, written or resumed."""


class CheckpointError(DiskError):
    """A file of weights is missing, damaged or for another network."""


class PairsError(DiskError):
    """A list of pairs or a pairing strategy cannot be used."""


class ColmapError(DiskError):
    """A COLMAP database, model or workspace cannot be used."""


class DatasetError(DiskError):
    """A training data set cannot be used."""


class DownloadError(DiskError):
    """A file cannot be downloaded, or is not the expected one."""


class TrainingError(DiskError):
    """Training cannot start or continue."""


class EvaluationError(DiskError):
    """Ground truth or predictions cannot be evaluated."""


# import name -> (distribution, extra that installs it)
OPTIONAL = {
    "av": ("av", "video"),
    "cv2": ("opencv-python-headless", "baselines"),
    "filelock": ("filelock", "cli"),
    "h5py": ("h5py", "cli"),
    "kornia": ("kornia", "lightglue"),
    "matplotlib": ("matplotlib", "cli"),
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "onnxscript": ("onnxscript", "onnx"),
    "pillow_heif": ("pillow-heif", "heic"),
    "plotly": ("plotly", "sfm"),
    "poselib": ("poselib", "sfm"),
    "pycolmap": ("pycolmap", "sfm"),
    "ray": ("ray", "ray"),
    "rich": ("rich", "cli"),
    "skimage": ("scikit-image", "demo"),
    "tensorboard": ("tensorboard", "train"),
    "tqdm": ("tqdm", "cli"),
    "triton": ("triton", "gpu"),
    "tyro": ("tyro", "cli"),
}


class MissingExtraError(DiskError, ImportError):
    """An optional library is not installed."""

    def __init__(self, library: str) -> None:
        distribution, extra = OPTIONAL[library]
        super().__init__(f"{distribution} is not installed; run: pip install 'disk-features[{extra}]'")


def require(*libraries: str) -> None:
    """Raise MissingExtraError for the first of these libraries (import names) that is not installed."""
    for library in libraries:
        if find_spec(library) is None:
            raise MissingExtraError(library)


def explain_missing(error: ModuleNotFoundError) -> Exception:
    """MissingExtraError for a library that an extra installs; the error itself for any other."""
    return MissingExtraError(error.name) if error.name in OPTIONAL else error


class PartialFailureError(DiskError):
    """Some inputs failed and are named; the rest succeeded. Exit code 1.

    result: what the call would have returned; None if not available
    """

    exit_code = 1

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result
