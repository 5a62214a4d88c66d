"""The command `chameleon`. Each module here is one group of commands; heavy imports wait until a command runs."""
