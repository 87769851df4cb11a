"""Which images to match: exhaustive, sequential, a list, retrieval, spatial."""
