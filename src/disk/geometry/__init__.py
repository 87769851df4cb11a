"""Cameras, poses and their errors, robust estimation, a-contrario tests, shared points."""
