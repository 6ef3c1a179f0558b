"""`python -m pyllm` is `pyllm`."""

from pyllm.engine.cli import script

if __name__ == "__main__":
    script()
