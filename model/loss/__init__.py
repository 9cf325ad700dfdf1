"""What a batch learns: the next-item losses and the terms beside them, such as the alignment with profiles."""
