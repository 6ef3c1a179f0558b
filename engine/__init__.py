"""What happens over time: sessions, the KV cache's pages, sampling, chat, the command line."""
