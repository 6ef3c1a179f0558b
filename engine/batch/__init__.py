"""Many prompts from a file, answered at once: lines read and checked, the loop, answers written so that a run goes on."""
