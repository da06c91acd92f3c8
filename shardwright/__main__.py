"""`python -m shardwright`."""

from .cli import main

main()
