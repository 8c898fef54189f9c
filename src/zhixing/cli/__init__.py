"""The command line: one file per command, each thin. Commands import the library only when they run."""
