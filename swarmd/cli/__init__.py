"""The command line: one file for each command or group of commands, loaded when it is used.

`main` has the table of commands and turns errors into exit codes; `output` is the only place that
prints; `options` has what commands share. Commands that concern a running node ask its daemon
through `swarmd.control.client`; private keys of persons never leave this process.
"""
