"""Measuring models and runs: bits per byte and perplexity, plain yardsticks beside them, and the report of a run.

Submodules are imported where they are used, so that importing this package stays cheap.
"""
