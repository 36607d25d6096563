"""The machine a process runs on: devices, number formats, ranks, memory."""
