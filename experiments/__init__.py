"""The commands: from a raw dataset to a report."""
