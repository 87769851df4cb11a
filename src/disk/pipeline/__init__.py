"""Stages over a whole collection of images: detect, match, verify, reconstruct, demo."""

from disk.errors import require

require("h5py", "filelock", "tqdm")
