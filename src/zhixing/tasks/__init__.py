"""What people do with language models, one word each."""
