"""The forward pass: verbs that record operations over weights, activations and cache, and the model that runs them."""
