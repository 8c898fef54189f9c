"""What an answer is worth: rewards that check it, and their weighted sum.

Each kind is a file: `numeric` (the right number), `pattern` (a regular expression), `schema` (JSON of a given form),
`code` (unit tests in the sandbox), `model` (a reward model), `function` (the user's own). A reward gets whole batches
of attempts and returns one figure for each; nothing here knows how answers are written or what is done with the
figures. Rewards come from the recipe alone: nothing in a model folder or in the data chooses one.
"""

from zhixing.training.rewards.base import Attempt, RecordFault, Reward
from zhixing.training.rewards.build import REWARDS, Scores, WeightedRewards, build_rewards

__all__ = ["REWARDS", "Attempt", "RecordFault", "Reward", "Scores", "WeightedRewards", "build_rewards"]
