"""What makes a diffusers pipeline fast, and shows its pictures while they are made."""

from polyrank.diffusion.loading import load
from polyrank.diffusion.optimize import Optimized, optimize
from polyrank.diffusion.parallel import parallelize, separate
from polyrank.diffusion.previewer import Previewer

__all__ = ["Optimized", "Previewer", "load", "optimize", "parallelize", "separate"]
