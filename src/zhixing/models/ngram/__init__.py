"""N-gram language models: streaming counts, modified Kneser-Ney smoothing, ARPA files, and the network made of them."""
