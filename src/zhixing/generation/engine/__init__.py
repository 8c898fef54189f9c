"""Many answers at once from one model: continuous batching over a paged key-value cache.

`Engine` is what others use: any thread submits, streams and aborts; one thread of its own runs the model. `blocks`
keeps the cache's blocks and the prefixes that may be used again, `scheduler` decides what each step reads, `workers`
run a step, on the C++ core or with PyTorch. Strategies that compare several texts (beams and their kind) are not here:
they are `Generator`'s.
"""

from zhixing.generation.engine.engine import Engine, Load
from zhixing.generation.engine.request import Request

__all__ = ["Engine", "Load", "Request"]
