"""Texts as vectors: the encoder, the catalogue's matrix, nearest neighbours and k-means."""
