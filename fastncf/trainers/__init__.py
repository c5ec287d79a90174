"""Ways to train a model, from the fastest to the general one."""
