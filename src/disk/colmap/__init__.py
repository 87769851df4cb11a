"""Everything that talks to COLMAP; the only room that imports pycolmap."""
