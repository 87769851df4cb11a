"""Stages over a whole collection of images: detect, match, verify, reconstruct, demo."""
