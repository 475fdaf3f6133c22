"""Debian's compiler for AArch64 and its emulator (gcc-aarch64-linux-gnu, qemu-user): what tests and
instruction counts build static programs with and run them by."""

CROSS = "aarch64-linux-gnu-"  # before the name of each tool
COMPILER = (f"{CROSS}gcc", "-O3", "-static")
QEMU = "qemu-aarch64"
