"""What each enrichment stage computes: pure functions over tables, and the doors to the models that they ask."""
