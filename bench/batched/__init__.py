"""Many sequences at once: prompts and decode steps by their number, as llama-batched-bench measures them."""
