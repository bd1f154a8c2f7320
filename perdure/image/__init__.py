"""The data plane: what a checkpoint is on disk, how its files are cloned and rolled back, and where it is kept."""
