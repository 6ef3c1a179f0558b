"""Text to tokens and back, and messages to tokens by the chat template."""
