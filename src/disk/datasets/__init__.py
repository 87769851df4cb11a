"""Scene data sets for training: the json format, reading, import, merge, synthesis, download."""

from disk.errors import require

require("h5py", "tqdm")
