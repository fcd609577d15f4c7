"""influencekit beside other libraries: one file a library, each method in a process of its own."""
