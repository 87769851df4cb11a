"""The exceptions of the package: one class for every kind of mistake a user can make.

Each message is one line that says what is wrong, where, and what to do. The command line prints it
and exits with `exit_code`; a traceback is only ever shown for a defect of ours.
"""


class DiskError(Exception):
    """A mistake the user can mend. The command line prints it in one line and exits with 2."""

    exit_code = 2


class ImageError(DiskError):
    """An image or a folder of images cannot be used."""


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


class MissingExtraError(DiskError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed; run: pip install 'disk-features[{extra}]'")


class PartialFailureError(DiskError):
    """The rest was done, but some inputs were not: named, and exit code 1."""

    exit_code = 1
