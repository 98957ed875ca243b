"""Which layers to rewrite, and at which ranks."""
