"""Standard benchmarks of the field: homography, relative pose, IMW, reconstruction."""
