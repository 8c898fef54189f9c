"""Model folders in the Hugging Face layout: finding, reading, checking and writing them."""
