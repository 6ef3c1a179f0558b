"""The command line: flags in, a result printed. The only room of the engine with argparse and print."""
