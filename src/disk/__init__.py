"""DISK: local features learned by policy gradient (arXiv 2006.13566)."""
