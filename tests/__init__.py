"""Tests of this repository: the conformance suite over the matrix, and what is ours alone."""
