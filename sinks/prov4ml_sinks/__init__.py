"""The sinks that come with prov4ml."""
