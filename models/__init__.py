"""What is in the file: GGUF, hyperparameters, weights, tokenizer, template, one forward pass per architecture."""
