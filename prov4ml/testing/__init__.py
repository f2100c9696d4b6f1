"""What tests need, of this project and of sinks that others write; never imported by it."""
