"""Reading image files: size, orientation, depth, and the pixels that the detector sees."""
