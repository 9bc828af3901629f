"""For our own tests and for plug-in authors: clocks, harness, contract batteries."""
