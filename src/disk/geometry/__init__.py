"""Cameras, poses and their errors, robust estimation, agreement by chance."""
