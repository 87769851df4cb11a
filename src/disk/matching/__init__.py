"""Exact nearest neighbours, the match distribution of training, LightGlue."""
