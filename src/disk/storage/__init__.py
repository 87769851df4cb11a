"""HDF5 artifacts (write, resume, merge shards), the layouts of IMW and hloc, locks, downloads and atomic files."""
