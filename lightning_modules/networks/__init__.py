"""Network parts shared by the models."""
