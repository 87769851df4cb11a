"""The field's own measurements: homography, relative pose, IMW, reconstruction."""
