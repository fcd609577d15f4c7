"""Callbacks that tape the training loops of other libraries; each needs its extra, `influencekit[NAME]`."""
