"""GGUF, the single-file format of llama.cpp: models in and out, with their tokenizer, within checked bounds."""
