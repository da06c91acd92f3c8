"""`python -m shardwright.cli`."""

from . import main

main()
