"""What influencekit is measured by: one file a question, `python -m benchmarks` from the checkout's root.

NAME.py answers the question NAME, and its result is results/NAME.json unless its RESULTS says otherwise.
`shared` holds timing, memory, child processes, and the writing of results; docs/tables.py reads them.
"""
