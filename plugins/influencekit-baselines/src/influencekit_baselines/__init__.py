"""The baselines people ask for, as estimators of influencekit. TRAK and EK-FAC adapt optional libraries."""

from influencekit_baselines.chance import Random
from influencekit_baselines.ekfac import EKFAC
from influencekit_baselines.products import GradCos, GradDot
from influencekit_baselines.shapley import Shapley
from influencekit_baselines.suspicion import EL2N, Forgetting, GradNorm, SelfInfluence
from influencekit_baselines.tracin import TracIn
from influencekit_baselines.trak import TRAK

__all__ = [
    "EKFAC",
    "EL2N",
    "Forgetting",
    "GradCos",
    "GradDot",
    "GradNorm",
    "Random",
    "SelfInfluence",
    "Shapley",
    "TRAK",
    "TracIn",
]
