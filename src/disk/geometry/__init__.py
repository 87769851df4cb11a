"""Cameras, epipolar geometry, poses and their errors, robust estimation."""
