"""Depth and epipolar rewards over pairs of keypoints."""
