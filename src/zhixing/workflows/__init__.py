"""Whole lives: what strings data, tokenizer, training, measuring and reporting together into one run."""
