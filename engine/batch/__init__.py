"""Many prompts from a file, answered at once: lines read and checked, the loop, and a file that a run goes on with."""
