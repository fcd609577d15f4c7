"""Data value embedding and exact trajectory-specific leave-one-out, for influencekit."""

from influencekit_dvemb.collector import Collector
from influencekit_dvemb.dvemb import DVEmb
from influencekit_dvemb.embeddings import embed, neighbours, scores, totals
from influencekit_dvemb.phases import phases, plot_phases
from influencekit_dvemb.tsloo import TSLOO

__all__ = ["TSLOO", "Collector", "DVEmb", "embed", "neighbours", "phases", "plot_phases", "scores", "totals"]
