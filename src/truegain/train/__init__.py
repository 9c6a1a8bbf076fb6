"""The online and offline loops, written out, and what makes a run safe: folder, checkpoints, ledger."""
