"""Matching: exact nearest neighbours, the match distribution of training, LightGlue."""
