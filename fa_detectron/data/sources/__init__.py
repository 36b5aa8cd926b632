"""From a path on the command line to the annotation files of one split, and their format."""
