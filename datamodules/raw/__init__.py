"""One file a dataset: its raw layout -> a stream of frame records."""
