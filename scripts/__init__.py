"""The ``diffplan`` command, one file per subcommand: installed as diffplan.scripts."""
