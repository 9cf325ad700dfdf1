"""The doors to a language model: one protocol, `Generate`, and what stands behind it."""
