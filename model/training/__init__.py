"""Both phases: shared pre-training and domain fine-tuning, by one trainer."""
