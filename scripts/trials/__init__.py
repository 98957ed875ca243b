"""Running the command line on many models in child processes, and judging what it did (see sweep.py and fuzz.py)."""
