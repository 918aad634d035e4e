"""`python -m datafusion_embed` is the program embedsql."""

from ._program import main

main()
