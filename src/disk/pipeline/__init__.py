"""The stages that process a collection of images: detect, match, verify, reconstruct, demo and others."""

from disk.errors import require

require("h5py", "filelock", "tqdm")
