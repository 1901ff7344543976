"""Lines of progress, and copies to the device."""
