"""Search by meaning and by words: an index on disk that grows, changes and forgets without being built anew."""

from zhixing.tasks.search.index import Changes, Hit, Index, Item

__all__ = ["Changes", "Hit", "Index", "Item"]
