"""The transferable item augmenter: representative items, generated items, grounding, insertion."""
