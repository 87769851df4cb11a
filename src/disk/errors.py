"""The exceptions of the package: one class for every kind of mistake a user can make.

Each message is one line that says what is wrong, where, and what to do. The command line prints it
and exits with `exit_code`; a traceback is only ever shown for a defect of ours.
"""

from importlib.util import find_spec


class DiskError(Exception):
    """A mistake the user can mend. The command line prints it in one line and exits with 2."""

    exit_code = 2


class ImageError(DiskError):
    """An image or a folder of images cannot be used."""


class VideoError(DiskError):
    """A video cannot be used."""


class ArtifactError(DiskError):
    """An HDF5 artifact cannot be read, written or continued."""


class CheckpointError(DiskError):
    """A file of weights is missing, damaged or of another network."""


class PairsError(DiskError):
    """A list of pairs or a way of choosing pairs cannot be used."""


class ColmapError(DiskError):
    """A COLMAP database, model or workspace cannot be used."""


class DatasetError(DiskError):
    """A training data set cannot be used."""


class DownloadError(DiskError):
    """A file cannot be fetched from its server, or is not what it should be."""


class TrainingError(DiskError):
    """Training cannot start or go on."""


class EvaluationError(DiskError):
    """Ground truth or predictions cannot be evaluated."""


# library as it is imported -> as it is installed, and the extra that brings it
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
    """Raise MissingExtraError for the first of these libraries, named as they are imported, that is not installed."""
    for library in libraries:
        if find_spec(library) is None:
            raise MissingExtraError(library)


def explain_missing(error: ModuleNotFoundError) -> Exception:
    """MissingExtraError for a library that an extra brings, the error itself for any other."""
    return MissingExtraError(error.name) if error.name in OPTIONAL else error


class PartialFailureError(DiskError):
    """The rest was done, but some inputs were not: named, and exit code 1."""

    exit_code = 1
