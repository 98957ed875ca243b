"""Values to text and JSON; no input or output."""
