"""Callbacks that tape the training loops of other libraries. Each needs its extra: `influencekit[NAME]`."""
