"""A simulated world of users with tastes, its words, and edt-tiny, a language model that knows it."""
