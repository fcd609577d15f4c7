"""Data value embedding and exact trajectory-specific leave-one-out, for influencekit."""

from influencekit_dvemb.dvemb import DVEmb
from influencekit_dvemb.tsloo import TSLOO

__all__ = ["TSLOO", "DVEmb"]
