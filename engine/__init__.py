"""What happens over time: sequences and their pages of the KV cache, sampling, chat, the command line."""
