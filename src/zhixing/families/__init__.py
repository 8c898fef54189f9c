"""Published architectures: one small file each, translating their configuration and weight names to ours and back."""

from zhixing.families.base import Family
from zhixing.families.registry import FAMILIES, family_for_config, family_named

__all__ = ["FAMILIES", "Family", "family_for_config", "family_named"]
