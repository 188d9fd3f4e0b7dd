"""The soak: what `bench/soak` is made of."""
