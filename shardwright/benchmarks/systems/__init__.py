"""The systems whose ideas this project brings together: what their abstracts report, and what we predict for that setup."""
