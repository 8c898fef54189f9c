"""Writing with a model: sampling, stopping, the loop over tokens, streaming.

Reading models from disk is not here (`zhixing.checkpoints`), nor is the one-call interface (`zhixing.api`). To add a
way of changing probabilities, write a `LogitsProcessor` or a `Filter` (`sampling`); to add a reason to stop, a
`StoppingRule` (`stopping`). `docs/generation.md` has the formulas and an example of each.

What the native core needs (options, answers, the engine) imports no torch; the strategies that compute with tensors do,
and are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zhixing.generation.options import SamplingOptions
from zhixing.generation.published import options_from_config, options_named
from zhixing.generation.result import Generation, TokenLogprob
from zhixing.generation.stopping import Progress, StoppingRule

if TYPE_CHECKING:
    from zhixing.generation.best_of import Scorer
    from zhixing.generation.chain import chain_of
    from zhixing.generation.generate import Generator, Stream
    from zhixing.generation.guidance import Beginning, Reward, RewardGuidance
    from zhixing.generation.rows import Rows
    from zhixing.generation.sampling import Candidates, Context, Filter, LogitsProcessor

__all__ = [
    "Beginning",
    "Candidates",
    "Context",
    "Filter",
    "Generation",
    "Generator",
    "LogitsProcessor",
    "Progress",
    "Reward",
    "RewardGuidance",
    "Rows",
    "SamplingOptions",
    "Scorer",
    "StoppingRule",
    "Stream",
    "TokenLogprob",
    "chain_of",
    "options_from_config",
    "options_named",
]

_HOMES = {
    "Scorer": "best_of", "chain_of": "chain", "Generator": "generate", "Stream": "generate",
    **dict.fromkeys(("Beginning", "Reward", "RewardGuidance"), "guidance"), "Rows": "rows",
    **dict.fromkeys(("Candidates", "Context", "Filter", "LogitsProcessor"), "sampling"),
}  # fmt: skip
"""Where the names are that need torch."""


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is first used."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"zhixing.generation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'zhixing.generation' has no attribute {name!r}")
