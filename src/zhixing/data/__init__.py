"""From files of text to packed batches of tokens: sources, documents, the held-out split, shards, samplers.

Tokenizers are not here: whatever encodes text is handed in (see `encode.Encoder`).
"""

from zhixing.data.batches import IGNORE, Batch, PackedSampler, sequential_blocks
from zhixing.data.build import ShardOptions, build_shards
from zhixing.data.documents import Document
from zhixing.data.encode import Encoder
from zhixing.data.problems import Problem, Problems
from zhixing.data.readers import read_documents
from zhixing.data.shards import ShardFacts, ShardSet, SplitFacts, TokenStore, open_shards
from zhixing.data.sources import Source, find_sources, standard_library_paths
from zhixing.data.split import document_hash, held_out

__all__ = [
    "IGNORE",
    "Batch",
    "Document",
    "Encoder",
    "PackedSampler",
    "Problem",
    "Problems",
    "ShardFacts",
    "ShardOptions",
    "ShardSet",
    "Source",
    "SplitFacts",
    "TokenStore",
    "build_shards",
    "document_hash",
    "find_sources",
    "held_out",
    "open_shards",
    "read_documents",
    "sequential_blocks",
    "standard_library_paths",
]
