"""What is done with a run, one verb a file; the names that `influencekit` exports."""
