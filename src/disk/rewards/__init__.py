"""Training rewards of matches between the keypoints of two images."""
