"""Which images to match: exhaustive, sequential, from a list, by retrieval, spatial, rigs."""
