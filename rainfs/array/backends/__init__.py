"""The backends that come with rainfs."""
