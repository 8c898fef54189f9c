"""Writing with a model: sampling, stopping, the loop over tokens, streaming.

Reading models from disk is not here (`zhixing.checkpoints`), nor is the one-call interface (`zhixing.api`). To add a
way of changing probabilities, write a `LogitsProcessor` or a `Filter` (`sampling`); to add a reason to stop, a
`StoppingRule` (`stopping`). `docs/generation.md` has the formulas and an example of each.
"""

from zhixing.generation.best_of import Scorer
from zhixing.generation.chain import chain_of
from zhixing.generation.generate import Generator, Stream
from zhixing.generation.guidance import Beginning, Reward, RewardGuidance
from zhixing.generation.options import SamplingOptions
from zhixing.generation.published import options_from_config, options_named
from zhixing.generation.result import Generation, TokenLogprob
from zhixing.generation.rows import Rows
from zhixing.generation.sampling import Candidates, Context, Filter, LogitsProcessor
from zhixing.generation.stopping import Progress, StoppingRule

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
