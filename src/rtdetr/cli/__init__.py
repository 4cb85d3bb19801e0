"""The command line: `main` finds the verb, one file a verb does the work."""
