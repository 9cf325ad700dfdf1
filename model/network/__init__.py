"""The network: item vectors, shared transformer, domain adapters, recency popularity."""
