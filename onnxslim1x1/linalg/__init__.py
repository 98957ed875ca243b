"""Linear algebra on plain arrays: spectra, streaming covariances and least squares."""
