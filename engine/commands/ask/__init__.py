"""How a model is asked, from the flags of `run`: what is loaded, and many prompts instead of one."""
