"""The waist between the facade and the two backends."""
