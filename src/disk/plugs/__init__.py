"""Where other programs plug in: hloc, deep-image-matching, OpenCV. See docs/integrations.md."""
