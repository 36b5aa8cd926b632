"""From records to batches: augmentation, mapping, and the order of the samples."""
