"""Tests of what bad input leads to."""
