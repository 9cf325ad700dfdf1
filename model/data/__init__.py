"""The training set in memory or mapped from disk, and the windows and batches that are cut from it."""
