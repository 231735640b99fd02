"""One file per data set: its data module and what is known of it."""
