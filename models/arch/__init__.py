"""The architectures, one file each, in the verbs of `forward`."""
