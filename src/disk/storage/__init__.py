"""HDF5 artifacts: write, resume, merge shards, IMW and hloc layouts."""
