"""Synthetic posed scenes with exact depth, textured with any photos and rendered on any device."""
