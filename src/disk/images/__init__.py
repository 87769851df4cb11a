"""Listing and decoding images, resizing them for the network, and mapping points back."""
