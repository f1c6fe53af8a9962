"""Stand-ins that tests use instead of disks and networks."""
