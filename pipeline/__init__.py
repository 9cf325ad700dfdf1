"""What each enrichment stage computes: pure functions over tables, and the models that they ask."""
