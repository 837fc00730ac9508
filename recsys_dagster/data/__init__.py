"""Data: the registry of datasets, readers, preparation, and the generated sample."""
