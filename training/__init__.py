"""From history to a bundle: examples, recipes, the training loop, evaluation, Ray."""
