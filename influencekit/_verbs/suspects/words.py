"""What `suspects` found, in one sentence with its numbers."""

from influencekit._verbs.suspects.calibration import Calibration
from influencekit._verbs.suspects.expectation import Expected

__all__ = ["influence_words", "verdict"]

_NOTHING = 0.005  # of AUC


def verdict(
    found: Calibration, expected: Expected, marked: int, count: int, trusted: bool, misled: bool,
    influence: str, auc: tuple[float, float],
) -> str:  # fmt: skip
    """How many labels look wrong, which score leads, what is marked, and whether influence adds anything.
    `misled`: models hold wrong labels for right. `auc`: the interval of the score that leads."""
    lead = found.findings[found.lead]
    many = _many(expected.issues, count, trusted)
    others = ", ".join(f"{name} {one.auc:.3f}" for name, one in found.findings.items() if name != found.lead)
    beside = f"; {others}" if others else ""
    if auc[0] <= 0.5:
        return (
            f"no score finds planted wrong labels better than chance in these data (best {found.lead}, AUC "
            f"{lead.auc:.3f}, {auc[0]:.3f} to {auc[1]:.3f}{beside}), so none is marked, and how many are "
            f"wrong is hard to tell: {many}"
        )
    leads = f"{found.lead} finds planted wrong labels best (AUC {lead.auc:.3f}{beside})"
    if not trusted:
        return f"{many}; {leads}; none is marked: only trusted data would say how many are wrong"
    if misled:
        return (
            f"{many}, and to models trained on them wrong labels of trusted examples are likelier than right "
            "ones: so most labels, or most of one class, are wrong, or mean something else than trusted "
            "ones; compare how both are numbered; none is marked, since what looks suspicious may be right"
        )
    if not marked:
        sure = "no label is more likely wrong than right"
        return f"{many}; {leads}; {sure}{influence}"
    k = marked - 1
    values = (expected.precision[k], expected.low[k], expected.high[k])
    part, least, most = (f"{100 * each:.0f}" for each in values)
    hope = f"{part} % ({least} to {most} %)"
    one, several = f"is marked, wrong with probability {hope}", f"are marked, of which {hope} should be wrong"
    return f"{many}; {leads}; {marked} {one if marked == 1 else several}{influence}"


def _many(issues: tuple[float, float, float], count: int, trusted: bool) -> str:
    if not trusted:
        return f"at most about {round(issues[2])} of {count} labels are wrong"
    about, low, high = (round(each) for each in issues)
    return f"about {about} of {count} labels look wrong ({low} to {high})"


def influence_words(gain: float | None, names: list[str]) -> str:
    """What the scores that ask trusted data add to the others, by the gain in AUC."""
    if gain is None:
        return ""
    said = " and ".join(names)
    if gain < _NOTHING:
        return f"; influence ({said}) adds nothing here"
    return f"; influence ({said}) adds {gain:.3f} of AUC"
