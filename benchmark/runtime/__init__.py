"""The process and its machine: device, precision, copies to the device, and the lines of progress."""
