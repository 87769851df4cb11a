"""Scene data sets for training: the json format, reading, import, merge, synthesis, download."""
