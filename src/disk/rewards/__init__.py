"""What a match is worth in training: rewards of all pairs of keypoints of two images."""
