"""From the disk to a batch: raw parsers, the frame store, folds, and one DataModule a dataset."""
