"""Every published setting as a function that returns a full Recipe."""

from attar.methods.recipes.recipe import Expected, OptimizerConfig, Recipe
from attar.methods.recipes.registry import REGISTRY, recipe

__all__ = ["REGISTRY", "Expected", "OptimizerConfig", "Recipe", "recipe"]
