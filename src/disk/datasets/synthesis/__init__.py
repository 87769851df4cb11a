"""Posed scenes with exact depth, made from any photographs: drawn, lit and rendered on any device."""
