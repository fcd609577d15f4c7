"""docs/results/exactness.md: scores beside derivatives computed in another way."""

from _tables.page import Page, Report, Section, Table


def _optimizers(report: Report) -> Table:
    heads = ["optimizer", "relative error against unrolled autodiff", "Taylor slope", "2 below h"]
    return Table(
        heads,
        [
            [name, f"{f['relative_error']:.1e}", f"{f['taylor_slope']:.2f}", f"{f['smooth_below']:g}"]
            for name, f in report["optimizers"].items()
        ],
    )


def _loops(report: Report) -> Table:
    same = ("recorded_bitwise", "replayed_bitwise")
    heads = [
        "loop",
        "error along a random direction",
        "error, single examples",
        "recorded bitwise",
        "replayed bitwise",
    ]
    return Table(
        heads,
        [
            [name]
            + [f"{found[key]:.1e}" for key in ("along_a_direction", "single_examples")]
            + [f"{found[key]} of {found['states']} states" for key in same]
            for name, found in report["cases"].items()
        ],
    )


PAGE = Page(
    "Exactness",
    "`dit` is the derivative of the recorded run by the weights of its examples. Here it is compared with "
    "derivatives that were computed in another way, on small models of random data.",
    {
        "exactness": Section(
            "Every optimizer",
            ("exactness",),
            "Float64. *Taylor slope*: the error of first order falls with the square of the weight change "
            "h; the slope is measured down to rounding and is 2 from the last column's h on. Adam divides "
            "by the size of the gradient, so above h = .01 higher orders count.",
            _optimizers,
        ),
        "tape-exactness": Section(
            "Recorded loops",
            ("tape_exactness",),
            "Scores of taped runs against central differences of the whole loop (a separate plain loop with "
            "`torch.optim`, float64), and bitwise equality of states and replay (float32).",
            _loops,
        ),
    },
)
