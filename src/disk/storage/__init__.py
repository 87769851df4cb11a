"""HDF5 artifacts: write, resume, merge shards; layouts of IMW and hloc; locks, downloads and new files."""
