"""Domain-aware profiling: a preference summary per user and domain, their merge, and their vectors."""
