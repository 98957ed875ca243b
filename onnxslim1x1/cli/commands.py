"""The commands: each is a module beside this one."""

from __future__ import annotations

COMMANDS = ("cost", "analyze", "report", "plan", "apply", "slim", "validate", "bisect", "init", "cache")
