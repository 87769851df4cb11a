"""What a match is worth in training: rewards of matches between the keypoints of two images."""
