"""Integration with other programs: hloc, deep-image-matching, OpenCV. See docs/integrations.md."""
