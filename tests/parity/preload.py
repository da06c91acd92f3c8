"""What the forkserver loads once, so that a rank starts in a moment."""

import gc

import tests.executor.runs
import tests.parity.updates  # noqa: F401

gc.collect()
gc.freeze()  # a rank's collections pass over what it shares with the server, and copy none of its pages
