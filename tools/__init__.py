"""Scripts for a checkout: none is installed, none is imported by nybble."""
