"""The doors to a language model: one protocol, `Generator`, and what stands behind it."""
