"""The standalone two-phase trainer: reads a training set's Parquet, writes weights, metrics and recommendations."""
